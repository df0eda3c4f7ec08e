//! Files that somebody has just let go of.

use std::time::{Duration, Instant};

/// How long a file that is in use is asked for. Where the last owner went through an io_uring, the kernel
/// takes a moment after its end to let go of the file, and to end what was under way: until then nobody
/// else may have it.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

/// Opens something, once it is free.
pub(super) fn when_free<T, E>(
    open: impl FnMut() -> Result<T, E>,
    in_use: impl Fn(&E) -> bool,
) -> Result<T, E> {
    within(PATIENCE, open, in_use)
}

fn within<T, E>(
    patience: Duration,
    mut open: impl FnMut() -> Result<T, E>,
    in_use: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let start = Instant::now();
    loop {
        match open() {
            Err(error) if in_use(&error) && start.elapsed() < patience => {
                std::thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_free_is_had_and_what_does_not_is_said() {
        let long = Duration::from_secs(60);
        let mut left = 3;
        let opened = within(
            long,
            || {
                left -= 1;
                if left == 0 { Ok("had") } else { Err("in use") }
            },
            |_| true,
        );
        assert_eq!(opened, Ok("had"));
        let never = within(Duration::from_millis(20), || Err::<(), _>("in use"), |_| true);
        assert_eq!(never, Err("in use"));
        let mut asked = 0;
        let other = within(
            long,
            || {
                asked += 1;
                Err::<(), _>("not there")
            },
            |_| false,
        );
        assert_eq!((other, asked), (Err("not there"), 1));
    }
}
