//! The fault plan: which commands go wrong, and how.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use parking_lot::Mutex;

/// What happens to a command that a [`Rule`] matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// The command ends with this status and does nothing.
    Status {
        /// Status Code Type.
        sct: u8,
        /// Status Code.
        sc: u8,
        /// Do Not Retry.
        dnr: bool,
    },
    /// The command is started this much later, by the controller's clock.
    Delay(Duration),
    /// The command is never started; it ends by Abort, queue deletion or reset.
    Hold,
    /// The command is carried out, its completion never posted.
    LoseCompletion,
    /// The completion is posted twice.
    DuplicateCompletion,
    /// The completion carries the command identifier exclusive-or this value (not 0).
    WrongCommandId(u16),
    /// So many random bits of what a read returns are flipped; the medium stays right.
    CorruptRead {
        /// Number of flips.
        bits: u32,
    },
    /// One random bit of what was written rots on the medium, after the write.
    BitRot,
    /// The write or read goes to a place this many blocks further (wrapping in the namespace).
    Misdirect {
        /// Distance in logical blocks.
        blocks: i64,
    },
    /// The command is acknowledged without being carried out. On Flush: a drive that lies about
    /// its cache. On Write: a lost write.
    Lie,
    /// A write with Force Unit Access is treated as one without.
    IgnoreFua,
    /// The controller fetches nothing more until it is reset; this command is not carried out.
    Stick,
    /// The controller reports a fatal status (CSTS.CFS) and stops until it is reset.
    Fatal,
    /// The function disappears: registers read as all ones.
    Remove,
    /// The command is carried out, then power is cut before its completion is posted.
    PowerCut {
        /// Decides which unflushed blocks survive.
        seed: u64,
    },
}

/// Which commands to harm, and how.
///
/// ```
/// use gcos_emulator::{Action, Rule};
/// // The third write to the first eight blocks fails with Write Fault.
/// let rule = Rule::io(Action::Status { sct: 2, sc: 0x80, dnr: false })
///     .opcode(0x01)
///     .blocks(0..8)
///     .after(2)
///     .times(1);
/// # let _ = rule;
/// ```
#[derive(Debug, Clone)]
pub struct Rule {
    action: Action,
    admin: Option<bool>,
    opcode: Option<u8>,
    queue: Option<u16>,
    namespace: Option<u32>,
    blocks: Option<Range<u64>>,
    after: u64,
    times: u64,
    percent: u8,
}

impl Rule {
    /// A rule over every command, each time.
    #[must_use]
    pub fn any(action: Action) -> Self {
        Self {
            action,
            admin: None,
            opcode: None,
            queue: None,
            namespace: None,
            blocks: None,
            after: 0,
            times: u64::MAX,
            percent: 100,
        }
    }

    /// A rule over I/O commands.
    #[must_use]
    pub fn io(action: Action) -> Self {
        Self { admin: Some(false), ..Self::any(action) }
    }

    /// A rule over admin commands.
    #[must_use]
    pub fn admin(action: Action) -> Self {
        Self { admin: Some(true), ..Self::any(action) }
    }

    /// Only commands of this opcode.
    #[must_use]
    pub fn opcode(mut self, opcode: u8) -> Self {
        self.opcode = Some(opcode);
        self
    }

    /// Only commands of this submission queue.
    #[must_use]
    pub fn queue(mut self, sqid: u16) -> Self {
        self.queue = Some(sqid);
        self
    }

    /// Only commands to this namespace.
    #[must_use]
    pub fn namespace(mut self, nsid: u32) -> Self {
        self.namespace = Some(nsid);
        self
    }

    /// Only commands that touch one of these logical blocks.
    #[must_use]
    pub fn blocks(mut self, blocks: Range<u64>) -> Self {
        self.blocks = Some(blocks);
        self
    }

    /// Lets the first `matches` matching commands through.
    #[must_use]
    pub fn after(mut self, matches: u64) -> Self {
        self.after = matches;
        self
    }

    /// Harms so many commands and no more.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Harms a matching command with this probability (0..=100), by the plan's seed.
    #[must_use]
    pub fn percent(mut self, percent: u8) -> Self {
        self.percent = percent.min(100);
        self
    }

    fn matches(&self, command: &Target) -> bool {
        let overlaps = |blocks: &Range<u64>| {
            command.blocks.start < blocks.end && blocks.start < command.blocks.end
        };
        self.admin.is_none_or(|admin| admin == command.admin)
            && self.opcode.is_none_or(|opcode| opcode == command.opcode)
            && self.queue.is_none_or(|queue| queue == command.queue)
            && self.namespace.is_none_or(|nsid| nsid == command.namespace)
            && self.blocks.as_ref().is_none_or(overlaps)
    }
}

/// The faults a controller starts with.
#[derive(Debug, Clone, Default)]
pub struct FaultPlan {
    /// Rules, in the order in which they are tried; all that match a command apply.
    pub rules: Vec<Rule>,
    /// Seed of everything random in the rules.
    pub seed: u64,
    /// Cut power during this media write (the first is 1); 0 never does. The write that is cut is
    /// torn: each unit of it reaches the medium or not.
    pub cut_at_write: u64,
    /// Decides what survives that power cut.
    pub cut_seed: u64,
}

/// Names a rule that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(u64);

/// What the rules are matched with.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) admin: bool,
    pub(crate) opcode: u8,
    pub(crate) queue: u16,
    pub(crate) namespace: u32,
    /// Empty for commands that name no blocks.
    pub(crate) blocks: Range<u64>,
}

/// Everything that goes wrong with one command.
#[derive(Debug, Clone, Default)]
pub(crate) struct Effects {
    pub(crate) actions: Vec<Action>,
    /// Seed of what is random in them.
    pub(crate) seed: u64,
}

impl Effects {
    pub(crate) fn has(&self, action: Action) -> bool {
        self.actions.contains(&action)
    }

    pub(crate) fn find<T>(&self, pick: impl Fn(&Action) -> Option<T>) -> Option<T> {
        self.actions.iter().find_map(pick)
    }
}

#[derive(Debug)]
struct Active {
    id: RuleId,
    rule: Rule,
    matched: u64,
    applied: u64,
}

#[derive(Debug)]
struct Rules {
    active: Vec<Active>,
    rng: Rng,
    next_id: u64,
}

/// The rules in force; they may be changed while the controller runs.
#[derive(Debug)]
pub struct Faults {
    /// Spares commands the lock while there are no rules.
    any: AtomicBool,
    rules: Mutex<Rules>,
}

impl Faults {
    pub(crate) fn new(plan: &FaultPlan) -> Self {
        let rules = Rules { active: Vec::new(), rng: Rng::with_seed(plan.seed), next_id: 0 };
        let faults = Self { any: AtomicBool::new(false), rules: Mutex::new(rules) };
        for rule in &plan.rules {
            faults.add(rule.clone());
        }
        faults
    }

    /// Adds a rule behind the others. It applies to commands fetched from now on.
    pub fn add(&self, rule: Rule) -> RuleId {
        let mut rules = self.rules.lock();
        let id = RuleId(rules.next_id);
        rules.next_id += 1;
        rules.active.push(Active { id, rule, matched: 0, applied: 0 });
        self.any.store(true, Ordering::Release);
        id
    }

    /// Removes a rule: whether it was there. Commands that it holds or delays stay so.
    pub fn remove(&self, id: RuleId) -> bool {
        let mut rules = self.rules.lock();
        let before = rules.active.len();
        rules.active.retain(|active| active.id != id);
        self.any.store(!rules.active.is_empty(), Ordering::Release);
        rules.active.len() < before
    }

    /// Removes every rule.
    pub fn clear(&self) {
        self.rules.lock().active.clear();
        self.any.store(false, Ordering::Release);
    }

    /// How many commands the rule has harmed; `None` when it is not there.
    #[must_use]
    pub fn applied(&self, id: RuleId) -> Option<u64> {
        let rules = self.rules.lock();
        rules.active.iter().find(|active| active.id == id).map(|active| active.applied)
    }

    /// Whether there is any rule at all.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// What goes wrong with a command; called once per command, in the order of fetching.
    pub(crate) fn apply(&self, target: &Target) -> Option<Box<Effects>> {
        let mut guard = self.rules.lock();
        let Rules { active, rng, .. } = &mut *guard;
        let mut effects = Effects::default();
        for entry in active.iter_mut().filter(|entry| entry.rule.matches(target)) {
            entry.matched += 1;
            let due = entry.matched > entry.rule.after && entry.applied < entry.rule.times;
            if due && (entry.rule.percent == 100 || rng.u8(0..100) < entry.rule.percent) {
                entry.applied += 1;
                effects.actions.push(entry.rule.action);
            }
        }
        if effects.actions.is_empty() {
            return None;
        }
        effects.seed = rng.u64(..);
        Some(Box::new(effects))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(blocks: Range<u64>) -> Target {
        Target { admin: false, opcode: 1, queue: 1, namespace: 1, blocks }
    }

    fn hit(faults: &Faults, target: &Target) -> bool {
        faults.apply(target).is_some()
    }

    #[test]
    fn the_nth_match_is_harmed_so_many_times() {
        let faults = Faults::new(&FaultPlan::default());
        assert!(!faults.any());
        let id = faults.add(Rule::io(Action::Hold).opcode(1).blocks(8..10).after(2).times(2));
        assert!(!hit(&faults, &write(0..8)));
        let hits: Vec<bool> = (0..6).map(|_| hit(&faults, &write(7..9))).collect();
        assert_eq!(hits, [false, false, true, true, false, false]);
        assert_eq!(faults.applied(id), Some(2));
        assert!(faults.remove(id) && !faults.remove(id));
        assert!(!faults.any());
    }

    #[test]
    fn admin_and_io_queues_and_namespaces_are_told_apart() {
        let faults = Faults::new(&FaultPlan::default());
        faults.add(Rule::admin(Action::Hold));
        faults.add(Rule::any(Action::Lie).queue(3).namespace(2));
        assert!(!hit(&faults, &write(0..1)));
        assert!(hit(&faults, &Target { admin: true, ..write(0..0) }));
        assert!(!hit(&faults, &Target { queue: 3, ..write(0..1) }));
        assert!(hit(&faults, &Target { queue: 3, namespace: 2, ..write(0..1) }));
    }

    #[test]
    fn chance_follows_the_seed() {
        let run = |seed| {
            let rules = vec![Rule::io(Action::Lie).percent(30)];
            let faults = Faults::new(&FaultPlan { rules, seed, ..FaultPlan::default() });
            (0..1000).map(|_| hit(&faults, &write(0..1))).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let share = run(3).iter().filter(|&&hit| hit).count();
        assert!((200..400).contains(&share), "{share}");
    }
}
