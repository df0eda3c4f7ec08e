use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::DemotionRules;

/// Windows that make a baseline; fewer are not judged by.
const BASELINE_LEAST: usize = 4;
/// Windows that a baseline is the median of.
const BASELINE_MOST: usize = 31;
/// Windows in a row that must be slow.
const SLOW_WINDOWS: u32 = 3;
/// Share of a window's requests that may be as slow as they like, in percent.
const SPARED_PERCENT: usize = 5;
/// Classes of size and load each: 4 KiB, 16 KiB, ... 16 MiB and more.
const MOST_CLASS: u8 = 7;

/// Requests that can be compared: of one direction, of about one size, behind about as many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    write: bool,
    size: u8,
    load: u8,
}

impl Class {
    /// A request of so many bytes that was sent while so many others were under way.
    pub(super) fn new(write: bool, bytes: u64, ahead: u64) -> Self {
        Self { write, size: magnitude(bytes), load: magnitude(ahead) }
    }
}

/// 0 for up to 4 KiB, and one more for each factor of 4.
fn magnitude(bytes: u64) -> u8 {
    let pages = bytes.div_ceil(4096).max(1);
    let factor = pages.ilog2().div_ceil(2);
    u8::try_from(factor).unwrap_or(MOST_CLASS).min(MOST_CLASS)
}

/// What is known of a class.
#[derive(Debug, Default)]
struct Track {
    /// Microseconds of the requests since the last window was full.
    window: Vec<u32>,
    /// What the last windows that were not slow came to, in microseconds.
    baseline: VecDeque<u32>,
    /// When the first of the slow windows in a row was full, and how many there are.
    slow: Option<(Duration, u32)>,
}

impl Track {
    /// The median of the windows, once there are enough.
    fn usual(&self) -> Option<u32> {
        if self.baseline.len() < BASELINE_LEAST {
            return None;
        }
        let mut sorted: Vec<u32> = self.baseline.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }
}

/// Whether a drive has become slow, measured by what it was.
///
/// Requests of a class are taken in windows, each of which comes to the latency that 95 percent of its
/// requests stayed within. What is usual is the median of the last windows that were not slow, so it
/// follows a change slowly and outliers not at all. A window is slow past a multiple of that, and past
/// the floor. Only several slow windows in a row, over some time, make the drive slow: a host that stands
/// still for a while makes all requests of that moment late, and one or two windows slow, but not over
/// time.
///
/// A class that has no baseline yet borrows that of a lesser load, times what the load is more: requests
/// that queue up behind a slow drive come into such classes first.
#[derive(Debug)]
pub(super) struct LatencyRule {
    multiple: u32,
    floor_us: u32,
    samples: usize,
    lasting: Duration,
    tracks: BTreeMap<Class, Track>,
}

impl LatencyRule {
    pub(super) fn new(rules: &DemotionRules) -> Self {
        Self {
            multiple: rules.latency_multiple,
            floor_us: micros(rules.latency_floor),
            samples: rules.latency_samples.max(8) as usize,
            lasting: rules.latency_lasting,
            tracks: BTreeMap::new(),
        }
    }

    /// Forgets slow windows, but not what is usual.
    pub(super) fn forgive(&mut self) {
        for track in self.tracks.values_mut() {
            track.window.clear();
            track.slow = None;
        }
    }

    /// Notes a request that took so long and ended at `now`. Says, in words, when the drive is slow.
    pub(super) fn took(&mut self, now: Duration, class: Class, took: Duration) -> Option<String> {
        if self.multiple == 0 {
            return None;
        }
        let track = self.tracks.entry(class).or_default();
        track.window.push(micros(took));
        if track.window.len() < self.samples {
            return None;
        }
        let mut window = std::mem::take(&mut track.window);
        window.sort_unstable();
        let rank = window.len() * (100 - SPARED_PERCENT) / 100;
        let came_to = window.get(rank.min(window.len() - 1)).copied().unwrap_or(0);
        let usual = self.usual(class);
        let limit = usual.map(|usual| usual.saturating_mul(self.multiple).max(self.floor_us));
        let slow = limit.is_some_and(|limit| came_to > limit);
        let track = self.tracks.entry(class).or_default();
        if !slow {
            track.slow = None;
            if track.baseline.len() == BASELINE_MOST {
                track.baseline.pop_front();
            }
            track.baseline.push_back(came_to);
            return None;
        }
        let (since, windows) = track.slow.unwrap_or((now, 0));
        track.slow = Some((since, windows + 1));
        let lasted = now.saturating_sub(since);
        if windows + 1 < SLOW_WINDOWS || lasted < self.lasting {
            return None;
        }
        let (what, usual) = (if class.write { "writes" } else { "reads" }, usual.unwrap_or(0));
        Some(format!(
            "5 percent of its {what} take more than {came_to} us, {usual} us are usual, for {lasted:?}"
        ))
    }

    /// What is usual for a class, or would be if it grew with the load, which is the most it should.
    fn usual(&self, class: Class) -> Option<u32> {
        (0..=class.load).rev().find_map(|load| {
            let usual = self.tracks.get(&Class { load, ..class })?.usual()?;
            Some(usual.saturating_mul(1 << (2 * (class.load - load))))
        })
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds requests, each of which ends when the one before it has.
    struct Feed {
        rule: LatencyRule,
        now: Duration,
        rng: fastrand::Rng,
    }

    const READ: (u64, u64) = (65_536, 0);

    impl Feed {
        fn new(multiple: u32) -> Self {
            let rules = DemotionRules { latency_multiple: multiple, ..DemotionRules::default() };
            let rng = fastrand::Rng::with_seed(7);
            Self { rule: LatencyRule::new(&rules), now: Duration::ZERO, rng }
        }

        /// So many requests of about so many microseconds, at a time apart: the first demotion, and at
        /// which request.
        fn feed(
            &mut self,
            count: u32,
            us: u64,
            apart: Duration,
            (bytes, ahead): (u64, u64),
        ) -> Option<(u32, String)> {
            (0..count).find_map(|n| {
                // Between half and twice as long.
                let us = us / 2 + self.rng.u64(0..us.max(1) * 3 / 2);
                self.now += apart;
                let class = Class::new(false, bytes, ahead);
                let said = self.rule.took(self.now, class, Duration::from_micros(us));
                said.map(|said| (n, said))
            })
        }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn sizes_and_loads_fall_into_powers_of_four() {
        let classes: Vec<u8> =
            [0, 1, 4096, 8192, 16_384, 65_536, 1 << 20, 1 << 40].map(magnitude).to_vec();
        assert_eq!(classes, [0, 0, 0, 1, 1, 2, 4, 7]);
    }

    #[test]
    fn a_drive_that_becomes_slow_and_stays_so_is_slow() {
        let mut feed = Feed::new(10);
        assert_eq!(feed.feed(5000, 100, MS, READ), None);
        let (at, said) = feed.feed(50_000, 200_000, 100 * MS, READ).unwrap();
        assert!((128..400).contains(&at), "{at}");
        assert!(said.contains("reads"), "{said}");
    }

    #[test]
    fn noise_never_makes_a_drive_slow() {
        // 3 percent of all requests take a second, whatever else.
        let mut feed = Feed::new(4);
        for _ in 0..2000 {
            assert_eq!(feed.feed(97, 100, MS, READ), None);
            assert_eq!(feed.feed(3, 1_000_000, MS, READ), None);
        }
        // The host stands still now and then: everything under way is late, at one moment.
        for _ in 0..200 {
            assert_eq!(feed.feed(300, 3_000_000, Duration::ZERO, READ), None);
            assert_eq!(feed.feed(1000, 100, MS, READ), None);
        }
    }

    #[test]
    fn what_is_below_the_floor_is_not_slow() {
        let mut feed = Feed::new(4);
        assert_eq!(feed.feed(2000, 20, MS, READ), None);
        assert_eq!(feed.feed(20_000, 20_000, 20 * MS, READ), None, "a thousand times, but 20 ms");
    }

    #[test]
    fn larger_and_more_requests_are_not_compared_with_smaller_and_fewer_ones() {
        let mut feed = Feed::new(4);
        assert_eq!(feed.feed(2000, 20_000, MS, READ), None);
        // Sixteen times the size, a hundred times the load.
        assert_eq!(feed.feed(20_000, 300_000, 10 * MS, (1 << 20, 0)), None);
        assert_eq!(feed.feed(20_000, 1_000_000, 10 * MS, (65_536, 8 << 20)), None);
    }

    #[test]
    fn a_queue_that_grows_behind_a_slow_drive_is_judged_by_the_short_one() {
        let mut feed = Feed::new(4);
        assert_eq!(feed.feed(2000, 1000, MS, (65_536, 65_536)), None);
        // 16 times the load: up to 64 times as long is no wonder, seconds are.
        assert_eq!(feed.feed(20_000, 30_000, MS, (65_536, 1 << 20)), None);
        let mut feed = Feed::new(4);
        assert_eq!(feed.feed(2000, 1000, MS, (65_536, 65_536)), None);
        assert!(feed.feed(20_000, 3_000_000, 50 * MS, (65_536, 1 << 20)).is_some());
    }

    #[test]
    fn slow_windows_that_are_forgiven_do_not_count_again() {
        let mut feed = Feed::new(10);
        assert_eq!(feed.feed(2000, 100, MS, READ), None);
        let (first, _) = feed.feed(5000, 200_000, 100 * MS, READ).unwrap();
        feed.rule.forgive();
        let (second, _) = feed.feed(5000, 200_000, 100 * MS, READ).unwrap();
        assert!(second + 64 >= first && second >= 128, "{first} {second}");
    }

    #[test]
    fn a_multiple_of_0_is_no_rule() {
        let mut feed = Feed::new(0);
        assert_eq!(feed.feed(2000, 100, MS, READ), None);
        assert_eq!(feed.feed(5000, 2_000_000, 100 * MS, READ), None);
        assert!(feed.rule.tracks.is_empty());
    }
}
