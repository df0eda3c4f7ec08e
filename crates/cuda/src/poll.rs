//! Waiting without blocking calls: every wait asks again and again, and has an end.

use std::time::{Duration, Instant};

/// Asks until the answer is yes, or for as long as `deadline`: whether it was yes. The first microseconds
/// are spent spinning, since short work is the common case; then other threads get the processor.
pub(crate) fn until<E>(
    deadline: Duration,
    mut ask: impl FnMut() -> Result<bool, E>,
) -> Result<bool, E> {
    let start = Instant::now();
    for turn in 0_u32.. {
        if ask()? {
            return Ok(true);
        }
        let spent = start.elapsed();
        if spent >= deadline {
            return Ok(false);
        }
        if turn < 64 {
            std::hint::spin_loop();
        } else if spent < Duration::from_micros(200) {
            std::thread::yield_now();
        } else {
            std::thread::sleep((spent / 16).min(Duration::from_millis(1)).min(deadline - spent));
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_the_answer_or_with_its_deadline() {
        let mut asked = 0;
        let yes = until(Duration::from_secs(10), || {
            asked += 1;
            Ok::<_, ()>(asked == 100)
        });
        assert_eq!((yes, asked), (Ok(true), 100));
        let start = Instant::now();
        assert_eq!(until(Duration::from_millis(20), || Ok::<_, ()>(false)), Ok(false));
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert_eq!(until(Duration::from_secs(10), || Err::<bool, _>(7)), Err(7));
    }
}
