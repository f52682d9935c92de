//! The calls that wait for a group, and whether somebody sends them.

use std::collections::VecDeque;
use std::time::Duration;

use super::Grouped;
use super::waiting::Waiting;

/// Calls that may wait for a group; more are refused.
const QUEUE_MAX: usize = 8_192;
/// Both bound how long the first of a group waits for its answer.
const GROUP_MAX: usize = 256;
const GROUP_BYTES_MAX: usize = 4 << 20;

/// Those that wait, in the order in which they came.
pub(super) struct Queue<W: Grouped> {
    waiting: VecDeque<Waiting<W>>,
    /// Whether there is a [`Turn`](super::turn::Turn). Where there is none, nobody waits.
    is_sent: bool,
}

impl<W: Grouped> Default for Queue<W> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            is_sent: false,
        }
    }
}

/// What a call does that came to a queue.
pub(super) enum Entered<W: Grouped> {
    /// It is to begin a turn.
    First(Waiting<W>),
    /// It is told.
    Behind,
    /// It is refused.
    Full,
}

impl<W: Grouped> Queue<W> {
    /// Lines a call up, unless it is the first.
    pub(super) fn enter(&mut self, waiting: Waiting<W>) -> Entered<W> {
        if !self.is_sent {
            self.is_sent = true;
            return Entered::First(waiting);
        }
        if self.waiting.len() >= QUEUE_MAX {
            return Entered::Full;
        }
        self.waiting.push_back(waiting);
        Entered::Behind
    }

    /// The next group, in the order of the ids: no record twice, not too many bytes, nobody who has left.
    /// `None` where nobody waits, and then the turn is over.
    pub(super) fn next(&mut self) -> Option<Vec<Waiting<W>>> {
        if self.waiting.is_empty() {
            self.is_sent = false;
            return None;
        }
        let mut group: Vec<Waiting<W>> = Vec::with_capacity(self.waiting.len().min(GROUP_MAX));
        let mut bytes = 0;
        while group.len() < GROUP_MAX
            && let Some(next) = self.waiting.pop_front_if(|next| {
                bytes += next.write.bytes();
                group.is_empty() || bytes <= GROUP_BYTES_MAX
            })
        {
            if next.is_wanted() {
                group.push(next);
            }
        }
        // Stable: of one record the call that came first stays.
        group.sort_by_key(|waiting| waiting.write.id());
        self.put_back_repeated(&mut group);
        Some(group)
    }

    /// Two calls for one record, of which one must not see what the other writes, go one after the other.
    fn put_back_repeated(&mut self, group: &mut Vec<Waiting<W>>) {
        let is_repeated = |pair: &[Waiting<W>]| pair[0].write.id() == pair[1].write.id();
        if !group.windows(2).any(is_repeated) {
            return;
        }
        let mut last = None;
        let repeated =
            |waiting: &mut Waiting<W>| last.replace(waiting.write.id()) == Some(waiting.write.id());
        let later: Vec<_> = group.extract_if(.., repeated).collect();
        for waiting in later.into_iter().rev() {
            self.waiting.push_front(waiting);
        }
    }

    /// Those that have waited for longer than `limit`: they are not sent.
    pub(super) fn take_expired(&mut self, limit: Duration) -> Vec<Waiting<W>> {
        let expired = self
            .waiting
            .iter()
            .take_while(|waiting| waiting.since.elapsed() > limit);
        let expired = expired.count();
        self.waiting.drain(..expired).collect()
    }

    /// Whether the turn of the call that came first ends with it: nobody came meanwhile.
    pub(super) fn ends(&mut self) -> bool {
        self.is_sent = !self.waiting.is_empty();
        !self.is_sent
    }

    /// All of them.
    pub(super) fn take_all(&mut self) -> Vec<Waiting<W>> {
        self.waiting.drain(..).collect()
    }

    /// Ends a turn and lets those who wait go on alone. To be told once the queue is not borrowed any more.
    pub(super) fn abandon(&mut self) -> Vec<Waiting<W>> {
        self.is_sent = false;
        self.take_all()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::failure::Failure;
    use super::super::super::session::Session;
    use super::super::Said;
    use super::*;
    use onlyonce::RecordId;
    use tokio::sync::oneshot::Receiver;

    #[derive(Debug)]
    struct Write(u8, usize);

    impl Grouped for Write {
        type Done = ();

        fn id(&self) -> RecordId {
            RecordId::from_bytes([self.0; 16])
        }

        fn bytes(&self) -> usize {
            self.1
        }

        async fn write(group: &[Self], _: &mut Session<'_>) -> Result<Vec<Option<()>>, Failure> {
            Ok(vec![Some(()); group.len()])
        }
    }

    /// A queue that is being sent, and those who wait there.
    fn queue(writes: &[(u8, usize)]) -> (Queue<Write>, Vec<Receiver<Said<()>>>) {
        let mut queue = Queue::default();
        assert!(matches!(
            queue.enter(Waiting::new(Write(0, 0)).0),
            Entered::First(_)
        ));
        let enter = |(id, bytes): &(u8, usize)| {
            let (waiting, answer) = Waiting::new(Write(*id, *bytes));
            assert!(matches!(queue.enter(waiting), Entered::Behind));
            answer
        };
        let answers = writes.iter().map(enter).collect();
        (queue, answers)
    }

    fn groups(writes: &[(u8, usize)]) -> Vec<Vec<(u8, usize)>> {
        let (mut queue, _answers) = queue(writes);
        std::iter::from_fn(|| queue.next())
            .map(|group| group.iter().map(|w| (w.write.0, w.write.1)).collect())
            .collect()
    }

    #[tokio::test]
    async fn a_group_is_in_order_and_holds_no_record_twice_and_the_first_call_goes_first() {
        assert_eq!(
            groups(&[(2, 1), (1, 1), (2, 2), (3, 1), (2, 3), (1, 2)]),
            [
                vec![(1, 1), (2, 1), (3, 1)],
                vec![(1, 2), (2, 2)],
                vec![(2, 3)]
            ]
        );
    }

    #[tokio::test]
    async fn a_group_is_bounded_in_bytes_but_takes_at_least_one() {
        let much = GROUP_BYTES_MAX;
        assert_eq!(
            groups(&[(1, much + 1), (2, much), (3, 1), (4, much - 1)]),
            [
                vec![(1, much + 1)],
                vec![(2, much)],
                vec![(3, 1), (4, much - 1)]
            ]
        );
    }

    #[tokio::test]
    async fn who_has_left_is_not_taken_along() {
        let (mut queue, mut answers) = queue(&[(1, 0), (2, 0)]);
        drop(answers.remove(0));
        let group = queue.next().unwrap();
        assert_eq!(group.iter().map(|w| w.write.0).collect::<Vec<_>>(), [2]);
    }

    #[tokio::test]
    async fn a_turn_is_over_when_nobody_waits_and_the_next_call_begins_another() {
        let (mut queue, _answers) = queue(&[(1, 0)]);
        assert!(!queue.ends());
        assert!(queue.next().is_some() && queue.next().is_none());
        assert!(matches!(
            queue.enter(Waiting::new(Write(2, 0)).0),
            Entered::First(_)
        ));
        assert!(queue.ends());
        assert!(matches!(
            queue.enter(Waiting::new(Write(3, 0)).0),
            Entered::First(_)
        ));
    }

    #[tokio::test]
    async fn too_many_are_refused() {
        let (mut queue, _answers) = queue(&vec![(1, 0); QUEUE_MAX]);
        assert!(matches!(
            queue.enter(Waiting::new(Write(1, 0)).0),
            Entered::Full
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_waited_too_long_are_taken_out() {
        let (mut queue, _answers) = queue(&[(1, 0), (2, 0)]);
        let limit = Duration::from_secs(5);
        tokio::time::advance(limit).await;
        queue.enter(Waiting::new(Write(3, 0)).0);
        assert!(queue.take_expired(limit).is_empty());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(queue.take_expired(limit).len(), 2);
        assert_eq!(queue.take_all().len(), 1);
    }
}
