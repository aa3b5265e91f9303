//! How long a batch may take, and how many deaths are too many.

use std::time::Duration;

/// A batch may take this many times what is expected.
const PATIENCE: f64 = 20.0;
/// No batch is waited for longer.
const LONGEST_BATCH: Duration = Duration::from_hours(24);
/// Seconds that a large batch takes, by what was measured at start.
const LARGE: f64 = 0.05;
/// Weight of the last batch among those before it.
const RECENT: f64 = 0.2;
/// More deaths than this without one finished batch between them, and work is refused for a while.
const MOST_DEATHS: u32 = 5;
/// Wait before the second start in a row; doubles with every further one.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Knows how fast batches are computed.
#[derive(Debug, Clone)]
pub(super) struct Watchdog {
    /// Less than this is no hang, however small the batch is.
    floor: Duration,
    seconds_per_flop: f64,
    /// The same of batches that are large, as it was measured and as it is now: small ones take as long as reading the weights.
    measured: f64,
    pace: f64,
}

impl Watchdog {
    /// `flops_per_second`: as measured at start.
    pub(super) fn new(floor: Duration, flops_per_second: f64) -> Self {
        let measured = 1.0 / flops_per_second;
        Self { floor, seconds_per_flop: measured, measured, pace: measured }
    }

    /// A process has measured its speed.
    pub(super) fn measured(&mut self, flops_per_second: f64) {
        *self = Self::new(self.floor, flops_per_second);
    }

    /// How long a large batch of so many operations takes, by what recent ones took.
    pub(super) fn expected(&self, flops: f64) -> Duration {
        Duration::try_from_secs_f64(flops * self.pace).unwrap_or(LONGEST_BATCH)
    }

    /// How long a batch of so many operations may take.
    pub(super) fn limit(&self, flops: f64) -> Duration {
        let expected = Duration::try_from_secs_f64(PATIENCE * flops * self.seconds_per_flop);
        expected.map_or(LONGEST_BATCH, |expected| expected.clamp(self.floor, LONGEST_BATCH))
    }

    /// How long an idle engine is left alone before it is asked for a sign of life, and how long that may take. Together they
    /// are the floor: whatever an engine was doing, it is not stopped for longer without being noticed.
    pub(super) fn idle(&self) -> (Duration, Duration) {
        let alone = self.floor / 4;
        (alone, self.floor.saturating_sub(alone))
    }

    /// Learns from a batch that was computed.
    pub(super) fn finished(&mut self, flops: f64, seconds: f64) {
        if flops > 0.0 {
            self.seconds_per_flop += RECENT * (seconds / flops - self.seconds_per_flop);
        }
        if flops * self.measured > LARGE {
            let pace = self.pace + RECENT * (seconds / flops - self.pace);
            self.pace = pace.clamp(self.measured / 2.0, self.measured * 2.0);
        }
    }
}

/// Counts deaths in a row.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Breaker {
    deaths: u32,
}

impl Breaker {
    /// The engine died.
    pub(super) fn died(&mut self) {
        self.deaths = self.deaths.saturating_add(1);
    }

    /// A batch was finished: whatever the engine died of, it still works.
    pub(super) fn finished(&mut self) {
        self.deaths = 0;
    }

    /// Whether work is refused at present.
    pub(super) fn is_open(self) -> bool {
        self.deaths > MOST_DEATHS
    }

    /// How long to wait before the next start.
    pub(super) fn wait(self) -> Duration {
        match self.deaths {
            0 | 1 => Duration::ZERO,
            n => LONGEST_WAIT.min(FIRST_WAIT * 2u32.saturating_pow(n - 2)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_may_take_twenty_times_what_recent_ones_took_and_never_less_than_the_floor() {
        let mut watchdog = Watchdog::new(Duration::from_secs(10), 1e9);
        assert_eq!(watchdog.limit(1e6), Duration::from_secs(10));
        assert_eq!(watchdog.limit(5e9), Duration::from_secs(100));
        for _ in 0..100 {
            watchdog.finished(1e9, 4.0);
        }
        let limit = watchdog.limit(5e9).as_secs_f64();
        assert!((limit - 400.0).abs() < 1e-3, "{limit}");
        assert_eq!(Watchdog::new(Duration::ZERO, 0.0).limit(1.0), LONGEST_BATCH);
    }

    #[test]
    fn what_a_large_batch_takes_is_learnt_from_large_ones_within_bounds() {
        let mut watchdog = Watchdog::new(Duration::ZERO, 1e9);
        (0..100).for_each(|_| watchdog.finished(1e6, 0.02));
        assert_eq!(watchdog.expected(1e8), Duration::from_millis(100));
        (0..100).for_each(|_| watchdog.finished(1e8, 0.15));
        assert!((watchdog.expected(1e8).as_secs_f64() - 0.15).abs() < 1e-6);
        (0..100).for_each(|_| watchdog.finished(1e8, 10.0));
        assert_eq!(watchdog.expected(1e8), Duration::from_millis(200));
    }

    #[test]
    fn an_idle_engine_is_not_out_of_sight_for_longer_than_the_floor() {
        let floor = Duration::from_secs(20);
        let (alone, answer) = Watchdog::new(floor, 1e9).idle();
        assert_eq!(alone + answer, floor);
        assert!(alone > Duration::ZERO && answer > alone);
    }

    #[test]
    fn six_deaths_in_a_row_open_the_breaker_and_one_finished_batch_closes_it() {
        let mut breaker = Breaker::default();
        let mut waits = Vec::new();
        for _ in 0..6 {
            assert!(!breaker.is_open());
            breaker.died();
            waits.push(breaker.wait().as_millis());
        }
        assert!(breaker.is_open());
        assert_eq!(waits, [0, 100, 200, 400, 800, 1600]);
        breaker.finished();
        assert!(!breaker.is_open() && breaker.wait().is_zero());
    }
}
