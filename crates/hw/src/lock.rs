use std::fs::{File, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

/// Time for a former owner to leave: the kernel closes what an io_uring had, and what a program had that was
/// killed, a moment after the end.
pub(crate) const LEAVING: Duration = Duration::from_secs(2);
/// Pause before looking again whether it has left.
pub(crate) const LEAVING_STEP: Duration = Duration::from_millis(10);

/// Who else may have a file that is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody: for whoever writes.
    Nobody,
    /// Others who lock it likewise: for those who only read.
    Readers,
}

/// Locks a file (flock) until it is closed; waits two seconds at most for a former owner to leave.
///
/// # Errors
/// [`TryLockError::WouldBlock`] when somebody else has it, or the system's error.
pub fn lock(file: &File, sharing: Sharing) -> Result<(), TryLockError> {
    lock_within(file, sharing, LEAVING)
}

fn lock_within(file: &File, sharing: Sharing, patience: Duration) -> Result<(), TryLockError> {
    let begun = Instant::now();
    loop {
        let locked = match sharing {
            Sharing::Nobody => file.try_lock(),
            Sharing::Readers => file.try_lock_shared(),
        };
        if !matches!(locked, Err(TryLockError::WouldBlock)) || begun.elapsed() >= patience {
            return locked;
        }
        thread::sleep(LEAVING_STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_had_as_soon_as_its_owner_leaves_and_not_before() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || file.reopen().unwrap();
        let owner = open();
        lock(&owner, Sharing::Nobody).unwrap();
        for sharing in [Sharing::Nobody, Sharing::Readers] {
            let refused = lock_within(&open(), sharing, Duration::from_millis(30));
            assert!(matches!(refused, Err(TryLockError::WouldBlock)), "{refused:?}");
        }
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(50));
                drop(owner);
            });
            lock_within(&open(), Sharing::Nobody, Duration::from_secs(60)).unwrap();
        });
        let readers = [open(), open()];
        readers.iter().for_each(|reader| lock(reader, Sharing::Readers).unwrap());
        let refused = lock_within(&open(), Sharing::Nobody, Duration::ZERO);
        assert!(matches!(refused, Err(TryLockError::WouldBlock)));
    }
}
