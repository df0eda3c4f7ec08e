//! Reading memory of another device: uncached or write-combining, where each load is a trip over the bus
//! of a microsecond, however many bytes it takes.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a line: the most that one load takes, and what a queue entry has.
pub(crate) const LINE_BYTES: usize = 64;

/// How lines of a device's memory are loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineLoads {
    /// Eight words of 8 bytes: everywhere.
    Words,
    /// Four streaming loads of 16 bytes (SSE 4.1).
    Bytes16,
    /// Two streaming loads of 32 bytes (AVX2).
    Bytes32,
    /// One streaming load of 64 bytes (AVX-512).
    Bytes64,
}

impl fmt::Display for LineLoads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Words => "8 loads of 8 bytes",
            Self::Bytes16 => "4 streaming loads of 16 bytes",
            Self::Bytes32 => "2 streaming loads of 32 bytes",
            Self::Bytes64 => "1 streaming load of 64 bytes",
        })
    }
}

impl LineLoads {
    /// All ways, narrowest first.
    pub const ALL: [Self; 4] = [Self::Words, Self::Bytes16, Self::Bytes32, Self::Bytes64];

    /// Whether this processor can.
    #[must_use]
    #[inline]
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        match self {
            Self::Words => true,
            Self::Bytes16 => is_x86_feature_detected!("sse4.1"),
            Self::Bytes32 => is_x86_feature_detected!("avx2"),
            Self::Bytes64 => is_x86_feature_detected!("avx512f"),
        }
        #[cfg(not(target_arch = "x86_64"))]
        matches!(self, Self::Words)
    }

    /// The widest that this processor has.
    #[must_use]
    #[inline]
    pub fn widest() -> Self {
        let [words, rest @ ..] = Self::ALL;
        rest.into_iter().rev().find(|loads| loads.is_available()).unwrap_or(words)
    }
}

/// Copies whole lines of a device's memory, each byte loaded once.
///
/// What is loaded is not older than the call: loads from write-combining memory may otherwise be done
/// ahead of those that told that there is something to read.
///
/// # Safety
/// `from` is a multiple of 64 and `out.len()` bytes, a multiple of 64, are readable there for the whole
/// call; the processor has `loads`.
pub(crate) unsafe fn read_lines(loads: LineLoads, from: *const u8, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is part of every x86-64 processor; the instruction has no operands.
    unsafe {
        std::arch::x86_64::_mm_mfence();
    }
    for (line, to) in out.as_chunks_mut::<LINE_BYTES>().0.iter_mut().enumerate() {
        // SAFETY: the line is within what the caller answers for.
        let from = unsafe { from.add(line * LINE_BYTES) };
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the line is readable and aligned, and the processor has the instructions: both are
        // the caller's word.
        unsafe {
            match loads {
                LineLoads::Words => load_words(from, to),
                LineLoads::Bytes16 => x86::load_16(from, to),
                LineLoads::Bytes32 => x86::load_32(from, to),
                LineLoads::Bytes64 => x86::load_64(from, to),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        // SAFETY: as above.
        unsafe {
            let _ = loads;
            load_words(from, to);
        }
    }
}

/// # Safety
/// 64 bytes at `from`, a multiple of 8, are readable.
unsafe fn load_words(from: *const u8, to: &mut [u8; LINE_BYTES]) {
    for (index, word) in to.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        // SAFETY: within the line and aligned; atomics tolerate concurrent change.
        let value = unsafe { AtomicU64::from_ptr(from.add(index * 8).cast_mut().cast()) };
        *word = value.load(Ordering::Relaxed).to_ne_bytes();
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m128i, __m256i, __m512i, _mm_storeu_si128, _mm_stream_load_si128, _mm256_storeu_si256,
        _mm256_stream_load_si256, _mm512_storeu_si512, _mm512_stream_load_si512,
    };

    use super::LINE_BYTES;

    /// # Safety
    /// 64 bytes at `from`, a multiple of 16, are readable.
    #[target_feature(enable = "sse4.1")]
    pub(super) unsafe fn load_16(from: *const u8, to: &mut [u8; LINE_BYTES]) {
        let from = from.cast::<__m128i>();
        // SAFETY: the four quarters are within the line and aligned.
        let line: [__m128i; 4] = std::array::from_fn(|n| unsafe {
            _mm_stream_load_si128(from.add(n).cast_mut().cast())
        });
        for (part, to) in line.into_iter().zip(to.as_chunks_mut::<16>().0) {
            // SAFETY: `to` is an exclusive array of the size that is stored; no alignment is asked.
            unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), part) };
        }
    }

    /// # Safety
    /// 64 bytes at `from`, a multiple of 32, are readable.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn load_32(from: *const u8, to: &mut [u8; LINE_BYTES]) {
        let from = from.cast::<__m256i>();
        // SAFETY: both halves are within the line and aligned.
        let line: [__m256i; 2] = std::array::from_fn(|n| unsafe {
            _mm256_stream_load_si256(from.add(n).cast_mut().cast())
        });
        for (part, to) in line.into_iter().zip(to.as_chunks_mut::<32>().0) {
            // SAFETY: `to` is an exclusive array of the size that is stored; no alignment is asked.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), part) };
        }
    }

    /// # Safety
    /// 64 bytes at `from`, a multiple of 64, are readable.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn load_64(from: *const u8, to: &mut [u8; LINE_BYTES]) {
        // SAFETY: the line is readable and aligned.
        let line: __m512i = unsafe { _mm512_stream_load_si512(from.cast_mut().cast()) };
        // SAFETY: `to` is an exclusive array of the size that is stored; no alignment is asked.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), line) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SharedMemory;

    #[test]
    #[cfg_attr(miri, ignore = "loads and fences of the processor")]
    fn every_way_reads_the_same_lines() {
        let memory = SharedMemory::anonymous(4096).unwrap();
        let bytes: Vec<u8> = (0..4096).map(|i| (i * 7 % 253) as u8).collect();
        memory.write(0, &bytes).unwrap();
        assert!(LineLoads::widest().is_available());
        for loads in LineLoads::ALL.into_iter().filter(|loads| loads.is_available()) {
            for (at, len) in [(0, 64), (64, 64), (128, 640), (3072, 1024)] {
                let mut out = vec![0; len];
                memory.read_lines(loads, at, &mut out).unwrap();
                assert!(out == bytes[at..at + len], "{loads}: {len} bytes at {at}");
            }
            let mut out = [0; 64];
            assert!(memory.read_lines(loads, 4064, &mut out).is_err(), "past the end");
            assert!(memory.read_lines(loads, 32, &mut out).is_err(), "not aligned");
            assert!(memory.read_lines(loads, 0, &mut out[..60]).is_err(), "no whole line");
        }
    }
}
