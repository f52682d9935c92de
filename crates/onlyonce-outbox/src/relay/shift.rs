//! A shift: a relay's work on one connection, from taking shards to losing or giving them back.
//!
//! One task reads, sends, hears what came back, and writes it down; only the sending itself runs beside it.
//! So what is in memory and what is in the database change in one order. Whenever the database fails, or a
//! shard turns out to be another's, the shift ends and all that it had in memory is forgotten: it is read
//! again, from where the cursors are.

mod read;
mod settle;

use std::collections::HashSet;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::age::Age;
use super::breaker::{Allowance, Breaker};
use super::flights::Flights;
use super::holdings::Holdings;
use super::lanes::{Item, Key, Lanes};
use super::lease::{self, Identity};
use super::options::RelayOptions;
use super::pace::Pace;
use super::stats::Counters;
use crate::connector::Session;
use crate::error::Error;
use crate::sink::Sink;
use crate::wake::Woken;

/// What a relay keeps from shift to shift.
#[derive(Debug)]
pub(super) struct Context<S> {
    pub(super) sink: Arc<S>,
    pub(super) me: Identity,
    pub(super) options: RelayOptions,
    pub(super) counters: Arc<Counters>,
}

/// What a relay knows from shift to shift, and changes.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) breaker: Breaker,
    pub(super) age: Age,
}

/// How a shift ended, where the database did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// As it was told.
    Stopped,
    /// A shard is another relay's, or an operator moved its cursor.
    Lost,
}

/// Says when to stop, once and for all.
#[derive(Debug)]
pub(super) struct Stop<'f, F> {
    future: Pin<&'f mut F>,
    pub(super) stopped: bool,
}

impl<'f, F: Future<Output = ()>> Stop<'f, F> {
    pub(super) fn new(future: Pin<&'f mut F>) -> Self {
        Self {
            future,
            stopped: false,
        }
    }

    /// Returns when it is time to stop, the first time; never again.
    pub(super) async fn told(&mut self) {
        if self.stopped {
            return pending().await;
        }
        self.future.as_mut().await;
        self.stopped = true;
    }
}

/// The work.
#[derive(Debug)]
pub(super) struct Shift<'c, S> {
    context: &'c Context<S>,
    session: Session,
    holdings: Holdings,
    lanes: Lanes,
    flights: Flights,
    memory: &'c mut Memory,
    pace: Pace,
    /// Events for which there is no room behind their key's first: their shards are not read on.
    no_room: Vec<Item>,
    /// Parked events that were delivered, while others of their keys are under way: told together, by then.
    delivered: Vec<Item>,
    tell_delivered_at: Option<Instant>,
    /// Keys whose parked events go: what waits behind their first one follows it at once.
    flowing: HashSet<Key>,
    pages: u64,
    /// Where the sequence was, at the last look.
    sequence: i64,
    /// Where it was before the last write that was committed: the floor of snapshots that are taken now.
    floor: i64,
    woken: Woken,
    renew_at: Instant,
    /// When to look for shards that have become free, where it should have more.
    take_at: Instant,
    retry_at: Instant,
    /// Once told to stop: until then, what was read is still sent.
    stop_by: Option<Instant>,
}

impl<'c, S: Sink> Shift<'c, S> {
    pub(super) fn new(
        context: &'c Context<S>,
        session: Session,
        sequence: i64,
        memory: &'c mut Memory,
    ) -> Self {
        let now = Instant::now();
        let options = &context.options;
        Self {
            context,
            session,
            holdings: Holdings::none(),
            lanes: Lanes::default(),
            flights: Flights::default(),
            memory,
            pace: Pace::new(options.poll_least, options.poll_most),
            no_room: Vec::new(),
            delivered: Vec::new(),
            tell_delivered_at: None,
            flowing: HashSet::new(),
            pages: 0,
            sequence,
            floor: 0,
            woken: options.wake.subscribe(),
            renew_at: now,
            take_at: now,
            retry_at: now,
            stop_by: None,
        }
    }

    /// Works until told to stop. Nothing is under way any more when this returns.
    pub(super) async fn work<F: Future<Output = ()>>(
        mut self,
        stop: &mut Stop<'_, F>,
    ) -> Result<End, Error> {
        let ended = self.rounds(stop).await;
        // A key that somebody else, or the next shift, goes on with must not be under way here.
        self.flights.settle().await;
        let counters = &self.context.counters;
        if !matches!(ended, Ok(End::Stopped)) {
            counters.leases_lost.add(self.holdings.len());
        }
        counters.shards.set(0);
        counters.in_memory.set(0);
        ended
    }

    async fn rounds<F: Future<Output = ()>>(
        &mut self,
        stop: &mut Stop<'_, F>,
    ) -> Result<End, Error> {
        loop {
            if stop.stopped && self.stop_by.is_none() {
                self.stop_by = Some(Instant::now() + self.context.options.publish_timeout);
            }
            if !self.round().await? {
                return Ok(End::Lost);
            }
            if self.is_finished() {
                return self.finish().await;
            }
            let next = self.next();
            tokio::select! {
                biased;
                () = stop.told() => {}
                landed = self.flights.next(), if self.flights.len() > 0 => {
                    let mut batches = Vec::from_iter(landed);
                    batches.extend(std::iter::from_fn(|| self.flights.try_next()));
                    if !self.settle(batches).await? {
                        return Ok(End::Lost);
                    }
                }
                () = self.woken.woken() => self.pace.woken(),
                () = sleep_until(next) => {}
            }
        }
    }

    /// All that is due. `false` where a shard was lost.
    async fn round(&mut self) -> Result<bool, Error> {
        if self.renew_at <= Instant::now() && !self.renew().await? {
            return Ok(false);
        }
        if self.stop_by.is_none() {
            self.look_at_age().await?;
            if self.take_at().is_some_and(|at| at <= Instant::now()) {
                self.take().await?;
            }
            if self.retry_at <= Instant::now() {
                self.claim_parked().await?;
            }
            if self.pace.next() <= Instant::now() && self.has_room() && !self.read().await? {
                return Ok(false);
            }
        }
        self.dispatch();
        let delivered_at = self.tell_delivered_at;
        if delivered_at.is_some_and(|at| at <= Instant::now()) && !self.tell_delivered().await? {
            return Ok(false);
        }
        let tell_at = self.holdings.tell_at(&self.context.options);
        if tell_at.is_some_and(|at| at <= Instant::now()) && !self.tell().await? {
            return Ok(false);
        }
        let to_give = self.holdings.to_give(|shard| self.lanes.has_parked(shard));
        if to_give.is_empty() {
            return Ok(true);
        }
        if !self.tell_delivered().await? {
            return Ok(false);
        }
        let me = &self.context.me;
        let ours = self
            .holdings
            .give_back(&mut self.session, me, &to_give)
            .await;
        self.context.counters.shards.set(self.holdings.len());
        ours
    }

    async fn renew(&mut self) -> Result<bool, Error> {
        let (me, options) = (&self.context.me, &self.context.options);
        let counters = &self.context.counters;
        let before = self.sequence;
        let ours = self
            .holdings
            .renew(&mut self.session, me, options, counters)
            .await?;
        if !ours {
            return Ok(false);
        }
        // It said that it lives, which is a write.
        self.floor = before;
        self.renew_at = Instant::now() + options.renew_every();
        self.take_at = Instant::now() + options.poll_most;
        self.find_room().await
    }

    /// When to look for free shards, where it has less than its share.
    fn take_at(&self) -> Option<Instant> {
        self.holdings.wants().then_some(self.take_at)
    }

    async fn take(&mut self) -> Result<(), Error> {
        let (me, options) = (&self.context.me, &self.context.options);
        let counters = &self.context.counters;
        self.holdings
            .take(&mut self.session, me, options, counters)
            .await?;
        self.take_at = Instant::now() + options.poll_most;
        Ok(())
    }

    async fn look_at_age(&mut self) -> Result<(), Error> {
        let Context {
            me,
            options,
            counters,
            ..
        } = self.context;
        let age = &mut self.memory.age;
        match age.look_at(options) {
            Some(at) if at <= Instant::now() => {
                age.look(&mut self.session, me, options, counters).await
            }
            _ => Ok(()),
        }
    }

    async fn tell(&mut self) -> Result<bool, Error> {
        let before = self.sequence;
        let moved = self.holdings.has_moved();
        let ours = self
            .holdings
            .tell(&mut self.session, &self.context.me)
            .await?;
        if moved {
            self.floor = before;
        }
        Ok(ours)
    }

    /// Whether it was told to stop, and what it had read is delivered, or will not be soon.
    fn is_finished(&self) -> bool {
        let Some(stop_by) = self.stop_by else {
            return false;
        };
        let gives_up = self.memory.breaker.is_open() || stop_by <= Instant::now();
        self.flights.len() == 0 && (self.lanes.len() == 0 || gives_up)
    }

    /// The last words: how far it came, and that others may go on.
    async fn finish(&mut self) -> Result<End, Error> {
        // Where a shard was lost, its new owner delivers them again.
        self.tell_delivered().await?;
        let me = &self.context.me;
        let all = self.holdings.leases();
        self.holdings.give_back(&mut self.session, me, &all).await?;
        lease::leave(&mut self.session, me).await?;
        Ok(End::Stopped)
    }

    /// When something is due next.
    fn next(&self) -> Instant {
        let mut next = self.renew_at;
        let tell_at = self.holdings.tell_at(&self.context.options);
        next = next.min(tell_at.unwrap_or(next));
        next = next.min(self.tell_delivered_at.unwrap_or(next));
        if let Some(stop_by) = self.stop_by {
            // Afterwards only what is under way is waited for.
            let waits = stop_by > Instant::now();
            return if waits { next.min(stop_by) } else { next };
        }
        let age = self.memory.age.look_at(&self.context.options);
        for at in [self.take_at(), age].into_iter().flatten() {
            next = next.min(at);
        }
        if self.has_room() {
            next = next.min(self.pace.next());
        }
        match self.memory.breaker.allows(Instant::now()) {
            Allowance::Nothing(until) => next.min(until),
            _ => next.min(self.retry_at),
        }
    }

    fn has_room(&self) -> bool {
        self.lanes.len() < self.context.options.window
    }

    /// Sends what is ready, as far as breaker, concurrency and leases allow.
    fn dispatch(&mut self) {
        let options = &self.context.options;
        let counters = &self.context.counters;
        let may_send = self.stop_by.is_none_or(|by| Instant::now() < by);
        while may_send && self.lanes.has_ready() && self.holdings.outlast(options.publish_timeout) {
            let most = self.context.sink.batch_max().max(1);
            let (most, concurrency) = match self.memory.breaker.allows(Instant::now()) {
                Allowance::All => (most, options.concurrency),
                Allowance::Probe(messages) => (most.min(messages), 1),
                Allowance::Nothing(_) => break,
            };
            if self.flights.len() >= concurrency {
                break;
            }
            let items = self.lanes.take(most);
            counters.batches.add(1);
            let retried = items.iter().filter(|item| item.envelope.attempt > 1);
            counters.retried.add(retried.count());
            self.flights
                .send(&self.context.sink, items, options.publish_timeout);
        }
        counters.in_memory.set(self.lanes.len());
        counters
            .breaker_open
            .set(usize::from(self.memory.breaker.is_open()));
    }

    /// For how long a parked event is left alone once it was claimed: until its try is surely over.
    fn busy(&self) -> Duration {
        self.context.options.lease + self.context.options.publish_timeout
    }
}
