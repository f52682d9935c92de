-- A response is found by when its record expires, first of all: whoever reads it has read the record. Responses
-- arrive in about that order, so that insertions meet at the end of the index and nowhere else, and the last
-- expiry of a day is the last entry of its index.
alter table onlyonce_responses drop constraint onlyonce_responses_pkey;
alter table onlyonce_responses add primary key (expires_at, token, epoch, day);

-- Room for a second version of each row on a page. A group completes a page's records at once, before their
-- first versions can be cleared away: with 70 only 55 of a hundred completions were heap-only updates.
alter table onlyonce_records set (fillfactor = 50);
