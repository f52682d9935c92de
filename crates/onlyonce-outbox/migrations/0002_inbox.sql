-- Since when a key is silent: the day (UTC) of its last message that was applied. A day and not a time, so that
-- the index changes once a day at the most, and not with each message.
alter table onlyonce_inbox_order add column seen_on date not null
    default (statement_timestamp() at time zone 'UTC')::date;

create index onlyonce_inbox_order_seen on onlyonce_inbox_order (consumer, seen_on);
