//! Ordering stores that are gathered on their way.

/// Orders stores to write-combining memory (queues and records in a peer device) before whatever this
/// thread stores next, such as the register write that tells of them, and sends them on their way.
/// Stores to ordinary memory are ordered by the processor, or by the fence of the caller.
#[inline]
pub fn order_stores() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of every x86-64 processor; the instruction has no operands.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}
