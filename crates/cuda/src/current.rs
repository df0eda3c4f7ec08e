//! Which context of CUDA is current in the calling thread. Others in the process, such as PyTorch, take it for
//! the choice of a GPU, so it is left as it was found.

use cudarc::driver::{DriverError, sys};

/// Makes the context that is current now current again at its end.
pub(crate) struct Restore {
    before: sys::CUcontext,
}

impl Restore {
    pub(crate) fn now() -> Self {
        let mut before = std::ptr::null_mut();
        // SAFETY: the pointer is to a live value.
        let asked = unsafe { sys::cuCtxGetCurrent(&mut before) }.result();
        if let Err(error) = asked {
            tracing::debug!(?error, "the current context is not known");
        }
        Self { before }
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        // SAFETY: it was current before, or is none.
        let restored = unsafe { sys::cuCtxSetCurrent(self.before) }.result();
        if let Err(error) = restored {
            tracing::debug!(?error, "the context that was current is so no more");
        }
    }
}

/// Does a call in a context, which lives.
pub(crate) fn with(
    context: sys::CUcontext,
    f: impl FnOnce() -> sys::CUresult,
) -> Result<(), DriverError> {
    let before = Restore::now();
    if before.before == context {
        std::mem::forget(before);
        return f().result();
    }
    // SAFETY: the caller has the context.
    unsafe { sys::cuCtxSetCurrent(context) }.result()?;
    f().result()
}
