//! The shards that a relay holds: leased, renewed, shared with others, given back.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::lease::{self, Identity, Lease, Share, Taken};
use super::position::{Position, Progress};
use super::stats::Counters;
use super::{cursor, options::RelayOptions};
use crate::connector::Session;
use crate::error::Error;

/// With so many owners in a row that vanished, the next one does not trust the events: see
/// [`Held::is_suspect`].
const CRASHES: i16 = 3;
/// What moved without any event is not worth a write more often.
const IDLE_MOVE_EVERY: Duration = Duration::from_secs(60);

/// One shard.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) lease: Lease,
    pub(super) progress: Progress,
    /// As the database has it.
    told: Position,
    /// To be given back when all that was read is done.
    leaving: bool,
    /// Whether what comes next may have ended its owners: then it is parked first, where each try is counted
    /// before it is made and others do not suffer.
    pub(super) is_suspect: bool,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Holdings {
    shards: BTreeMap<i16, Held>,
    /// Until when all of them surely are ours, by this process's clock.
    until: Instant,
    told_at: Instant,
    finished: usize,
    /// How many it should have.
    share: Share,
}

impl Holdings {
    pub(super) fn none() -> Self {
        let now = Instant::now();
        Self {
            shards: BTreeMap::new(),
            until: now,
            told_at: now,
            finished: 0,
            share: Share::default(),
        }
    }

    /// Renews, gives back what is too much, takes what is free. `false` where a shard was lost.
    pub(super) async fn renew(
        &mut self,
        session: &mut Session,
        me: &Identity,
        options: &RelayOptions,
        counters: &Counters,
    ) -> Result<bool, Error> {
        let leases = self.leases();
        if leases.is_empty() {
            self.until = Instant::now() + options.lease - options.margin();
        } else {
            let (ours, until) = lease::renew(session, me, &leases, options.lease).await?;
            if ours.len() != leases.len() {
                return Ok(false);
            }
            self.until = until - options.margin();
        }
        // Not before: who has just lost its shards has no say in how they are shared out.
        self.share = lease::fair_share(session, me, options.lease).await?;
        let surplus = self.staying().saturating_sub(self.share.shards);
        let last = self.shards.values_mut().rev().filter(|held| !held.leaving);
        last.take(surplus).for_each(|held| held.leaving = true);
        self.take(session, me, options, counters).await?;
        counters.shards.set(self.shards.len());
        Ok(true)
    }

    /// Whether it has less than its share.
    pub(super) fn wants(&self) -> bool {
        self.staying() < self.share.shards
    }

    /// Which relays there were when the shards were shared out last.
    pub(super) fn relays(&self) -> i64 {
        self.share.relays
    }

    fn staying(&self) -> usize {
        self.shards.values().filter(|held| !held.leaving).count()
    }

    /// Takes what is free, up to its share.
    pub(super) async fn take(
        &mut self,
        session: &mut Session,
        me: &Identity,
        options: &RelayOptions,
        counters: &Counters,
    ) -> Result<(), Error> {
        let missing = self.share.shards.saturating_sub(self.staying());
        if missing == 0 {
            return Ok(());
        }
        let held: Vec<i16> = self.shards.keys().copied().collect();
        let (taken, until) = lease::take(session, me, missing, &held, options.lease).await?;
        if taken.is_empty() {
            return Ok(());
        }
        tracing::info!(sink = me.sink, shards = taken.len(), "shards taken over");
        counters.leases_taken.add(taken.len());
        self.until = self.until.min(until - options.margin());
        let taken = taken
            .into_iter()
            .map(|taken| (taken.lease.shard, Held::new(taken)));
        self.shards.extend(taken);
        counters.shards.set(self.shards.len());
        Ok(())
    }

    /// Whether what takes so long would be over before the leases lapse.
    pub(super) fn outlast(&self, time: Duration) -> bool {
        Instant::now() + time < self.until
    }

    pub(super) fn leases(&self) -> Vec<Lease> {
        self.shards.values().map(|held| held.lease).collect()
    }

    /// Those on whose parked events there is work: all that are not about to be given back. One that is to
    /// leave, but whose page waits for room behind a parked event, is among them.
    pub(super) fn at_work(&self) -> Vec<Lease> {
        let at_work = |held: &&Held| !held.leaving || !held.progress.is_level();
        self.shards
            .values()
            .filter(at_work)
            .map(|held| held.lease)
            .collect()
    }

    pub(super) fn get_mut(&mut self, shard: i16) -> Option<&mut Held> {
        self.shards.get_mut(&shard)
    }

    /// The shards to read, those at the same position together; not those that `wait`.
    pub(super) fn to_read(&self, wait: impl Fn(i16) -> bool) -> Vec<(Position, Vec<i16>)> {
        let mut groups: Vec<(Position, Vec<i16>)> = Vec::new();
        for (&shard, held) in &self.shards {
            if held.leaving || wait(shard) {
                continue;
            }
            let read = &held.progress.read;
            match groups.iter_mut().find(|(position, _)| position == read) {
                Some((_, shards)) => shards.push(shard),
                None => groups.push((read.clone(), vec![shard])),
            }
        }
        groups
    }

    /// An event of a page was delivered or parked.
    pub(super) fn finish(&mut self, lease: Lease, page: u64) {
        if let Some(held) = self.shards.get_mut(&lease.shard) {
            held.progress.finish(page);
            self.finished += 1;
        }
    }

    /// When the database should be told, where it should.
    pub(super) fn tell_at(&self, options: &RelayOptions) -> Option<Instant> {
        if self.finished >= options.persist_events {
            return Some(self.told_at);
        }
        let every = match self.finished {
            0 => IDLE_MOVE_EVERY.max(options.persist_every),
            _ => options.persist_every,
        };
        self.has_moved().then(|| self.told_at + every)
    }

    /// Whether there is something to tell.
    pub(super) fn has_moved(&self) -> bool {
        self.shards.values().any(Held::has_moved)
    }

    /// Tells the database how far all shards are. `false` where a shard was lost.
    pub(super) async fn tell(
        &mut self,
        session: &mut Session,
        me: &Identity,
    ) -> Result<bool, Error> {
        self.told_at = Instant::now();
        self.finished = 0;
        let moved = self.shards.values().filter(|held| held.has_moved());
        let moves: Vec<_> = moved
            .map(|held| (held.lease, held.progress.done.clone()))
            .collect();
        if moves.is_empty() {
            return Ok(true);
        }
        let told = cursor::move_to(session, me, &moves).await?;
        for (lease, position) in &moves {
            if let Some(held) = self.shards.get_mut(&lease.shard) {
                held.told = position.clone();
                held.is_suspect = false;
            }
        }
        Ok(told.len() == moves.len())
    }

    /// The shards that are to leave and are done with; not those that are still `busy`.
    pub(super) fn to_give(&self, busy: impl Fn(i16) -> bool) -> Vec<Lease> {
        let done =
            |held: &&Held| held.leaving && held.progress.is_level() && !busy(held.lease.shard);
        self.shards
            .values()
            .filter(done)
            .map(|held| held.lease)
            .collect()
    }

    /// Gives shards back, after telling how far all are. `false` where one was lost.
    pub(super) async fn give_back(
        &mut self,
        session: &mut Session,
        me: &Identity,
        leases: &[Lease],
    ) -> Result<bool, Error> {
        let told = self.tell(session, me).await?;
        // Those that are not ours any more are not changed by it.
        lease::release(session, me, leases).await?;
        tracing::info!(sink = me.sink, shards = leases.len(), "shards given back");
        for lease in leases {
            self.shards.remove(&lease.shard);
        }
        Ok(told)
    }

    pub(super) fn len(&self) -> usize {
        self.shards.len()
    }
}

impl Held {
    fn new(taken: Taken) -> Self {
        Self {
            lease: taken.lease,
            told: taken.position.clone(),
            progress: Progress::at(taken.position),
            leaving: false,
            is_suspect: taken.crashes >= CRASHES,
        }
    }

    fn has_moved(&self) -> bool {
        self.told != self.progress.done
    }
}
