//! What a shift reads: pages of new events, and parked events whose next try is due.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::Shift;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::relay::breaker::Allowance;
use crate::relay::lanes::{self, Item, Origin};
use crate::relay::lease::Lease;
use crate::relay::pace::Found;
use crate::relay::park::{self, Outcomes};
use crate::relay::poll::{self, Page, Until};
use crate::relay::position::Position;
use crate::sink::Sink;

impl<S: Sink> Shift<'_, S> {
    /// Reads a page for each group of shards. `false` where a shard was lost.
    pub(super) async fn read(&mut self) -> Result<bool, Error> {
        let begun = Instant::now();
        let paused: BTreeSet<i16> = self.no_room.iter().map(|item| item.lease.shard).collect();
        self.context.counters.paused.set(paused.len());
        let groups = self.holdings.to_read(|shard| paused.contains(&shard));
        let until = match groups.len() {
            0 | 1 => Until::Present(self.floor),
            // So that they end at the same place, and are one group from then on.
            _ => Until::Snapshot(poll::present(&mut self.session, self.floor).await?),
        };
        let mut found = Found::Nothing;
        for (position, shards) in groups {
            let (sink, limit) = (&self.context.me.sink, self.context.options.page);
            let page =
                poll::page(&mut self.session, sink, &shards, &position, &until, limit).await?;
            self.sequence = page.sequence;
            let transactions = page.transactions;
            self.context.counters.open_transactions.set(transactions);
            if page.relays != self.holdings.relays() {
                // The shards are to be shared out anew, and not only when it is time to renew.
                self.renew_at = Instant::now();
            }
            found = match (page.full, page.events.is_empty()) {
                (true, _) => Found::More,
                (false, true) => found,
                (false, false) if found == Found::Nothing => Found::All,
                (false, false) => found,
            };
            if !self.take_in(page, &shards, &position).await? {
                return Ok(false);
            }
        }
        self.pace.looked(found);
        self.context.counters.polls.add(1);
        self.context.counters.polling.add_time(begun.elapsed());
        Ok(true)
    }

    /// Puts a page's events into their lanes, or behind those that are parked.
    async fn take_in(
        &mut self,
        page: Page,
        shards: &[i16],
        before: &Position,
    ) -> Result<bool, Error> {
        self.pages += 1;
        let mut counts: BTreeMap<i16, usize> = shards.iter().map(|shard| (*shard, 0)).collect();
        let mut outcomes = Outcomes::default();
        for read in page.events {
            let shard = i16::try_from(read.envelope.shard).unwrap_or(-1);
            let (Some(held), Some(count)) = (self.holdings.get_mut(shard), counts.get_mut(&shard))
            else {
                continue;
            };
            *count += 1;
            let item = Item {
                envelope: read.envelope,
                lease: held.lease,
                origin: Origin::Page(self.pages),
            };
            if read.parked || held.is_suspect {
                outcomes.behind.push(item);
            } else {
                self.lanes.push(item);
            }
        }
        for (shard, count) in counts {
            if let Some(held) = self.holdings.get_mut(shard) {
                debug_assert_eq!(
                    &held.progress.read, before,
                    "a shard was read by one statement at a time"
                );
                held.progress.page(self.pages, page.after.clone(), count);
            }
        }
        self.write(outcomes).await
    }

    /// Claims parked events that are due, as many as can be sent.
    pub(super) async fn claim_parked(&mut self) -> Result<(), Error> {
        let options = &self.context.options;
        self.retry_at = Instant::now() + options.poll_most;
        let limit = match self.memory.breaker.allows(Instant::now()) {
            Allowance::All => self.context.sink.batch_max().max(1) * options.concurrency,
            Allowance::Probe(messages) if !self.lanes.has_ready() => messages,
            Allowance::Probe(_) | Allowance::Nothing(_) => return Ok(()),
        };
        let leases = self.holdings.at_work();
        if leases.is_empty() || !self.has_room() {
            return Ok(());
        }
        let mut under_way = self.lanes.parked();
        under_way.extend(self.delivered.iter().map(|item| item.envelope.sequence));
        let busy = self.busy();
        let me = &self.context.me;
        let due = park::claim(&mut self.session, me, &leases, under_way, limit, busy).await?;
        let all = due.len() < limit;
        if !all {
            self.retry_at = Instant::now();
        }
        let room = options.window.saturating_sub(self.lanes.len() + due.len());
        let first: Vec<_> = due.iter().filter(|first| self.flows(first)).collect();
        let followers = match self.memory.breaker.allows(Instant::now()) {
            Allowance::All if !first.is_empty() && room > 0 => {
                park::follow(&mut self.session, me, &leases, &first, room).await?
            }
            _ => Vec::new(),
        };
        if all {
            // Those of other keys are not due, or are no more.
            self.flowing.clear();
        }
        for envelope in due.into_iter().chain(followers) {
            let shard = i16::try_from(envelope.shard).unwrap_or(-1);
            if let Some(held) = self.holdings.get_mut(shard) {
                let lease: Lease = held.lease;
                self.lanes.push(Item {
                    envelope,
                    lease,
                    origin: Origin::Parked,
                });
            }
        }
        Ok(())
    }

    /// Whether an event of its key, that was parked too, was just delivered.
    fn flows(&self, envelope: &Envelope) -> bool {
        lanes::key(envelope).is_some_and(|key| self.flowing.contains(&key))
    }
}
