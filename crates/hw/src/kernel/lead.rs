//! Who looks after completions: one of those who wait, and when it has what it wanted, the next.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::job::Spot;

/// The office of the one who looks.
#[derive(Debug, Default)]
pub(super) struct Lead {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: bool,
    waiting: Vec<Arc<Spot>>,
}

impl Lead {
    /// Does `look` if nobody is looking now.
    pub(super) fn try_look(&self, look: impl FnOnce()) {
        {
            let mut state = self.state.lock();
            if state.taken {
                return;
            }
            state.taken = true;
        }
        look();
        self.leave();
    }

    /// Waits at `spot` until `done`, `until` at most: whether it is done. Meanwhile calls `look` again and
    /// again whenever nobody else does; it waits for completions until the time given and passes them on.
    pub(super) fn attend(
        &self,
        spot: &Arc<Spot>,
        until: Instant,
        done: impl Fn() -> bool,
        look: impl Fn(Instant),
    ) -> bool {
        let mut in_line = false;
        let outcome = loop {
            let seen = spot.seen();
            if done() {
                break true;
            }
            if Instant::now() >= until {
                break false;
            }
            if !self.enter(spot, &mut in_line) {
                spot.wait(seen, until);
                continue;
            }
            let outcome = loop {
                look(until);
                if done() {
                    break true;
                }
                if Instant::now() >= until {
                    break false;
                }
            };
            self.leave();
            break outcome;
        };
        if in_line {
            self.step_out(spot);
        }
        outcome
    }

    /// Takes the office, or gets in line for it.
    fn enter(&self, spot: &Arc<Spot>, in_line: &mut bool) -> bool {
        let mut state = self.state.lock();
        if !state.taken {
            state.taken = true;
            return true;
        }
        if !*in_line {
            state.waiting.push(Arc::clone(spot));
            *in_line = true;
        }
        false
    }

    fn leave(&self) {
        let mut state = self.state.lock();
        state.taken = false;
        state.call_next();
    }

    /// Steps out of the line. A call to take the office may have come too late: it goes to the next.
    fn step_out(&self, spot: &Arc<Spot>) {
        let mut state = self.state.lock();
        if let Some(at) = state.waiting.iter().position(|other| Arc::ptr_eq(other, spot)) {
            state.waiting.remove(at);
        }
        if !state.taken {
            state.call_next();
        }
    }
}

impl State {
    /// Calls one who waits, who stays in line until it has what it wants.
    fn call_next(&self) {
        if let Some(next) = self.waiting.first() {
            next.call();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[test]
    fn there_is_one_who_looks_and_when_it_goes_the_next_does() {
        let lead = Lead::default();
        let spots: Vec<Arc<Spot>> = (0..8).map(|_| Arc::default()).collect();
        let (next, looking) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let until = Instant::now() + Duration::from_secs(30);
        // Whoever looks finishes one wait at a time, in an order that nobody waits in.
        let order = [3, 1, 7, 0, 2, 6, 5, 4];
        let look = |_| {
            assert_eq!(looking.fetch_add(1, Ordering::SeqCst), 0, "two look at a time");
            std::thread::sleep(Duration::from_millis(1));
            looking.fetch_sub(1, Ordering::SeqCst);
            if let Some(&index) = order.get(next.fetch_add(1, Ordering::SeqCst)) {
                spots[index].call();
            }
        };
        std::thread::scope(|scope| {
            for (index, spot) in spots.iter().enumerate() {
                let (lead, next, look) = (&lead, &next, &look);
                let turn = order.iter().position(|&other| other == index).unwrap();
                let done = move || next.load(Ordering::SeqCst) > turn;
                scope.spawn(move || assert!(lead.attend(spot, until, done, look)));
            }
        });
        assert!(!lead.state.lock().taken && lead.state.lock().waiting.is_empty());
    }

    #[test]
    fn a_wait_ends_at_its_time_and_leaves_the_line() {
        let lead = Lead::default();
        let spot = Arc::<Spot>::default();
        lead.try_look(|| {
            let until = Instant::now() + Duration::from_millis(10);
            let look = |_| panic!("somebody else is looking");
            assert!(!lead.attend(&spot, until, || false, look));
            lead.try_look(|| panic!("somebody else is looking"));
        });
        let state = lead.state.lock();
        assert!(!state.taken && state.waiting.is_empty());
    }
}
