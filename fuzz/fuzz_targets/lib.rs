//! A program of libFuzzer's for a target of `gcos-fuzz-targets`.

pub use gcos_fuzz_targets::target;
pub use libfuzzer_sys::fuzz_target;

/// The program of the target of that name.
#[macro_export]
macro_rules! fuzz {
    ($name:literal) => {
        use std::sync::LazyLock;

        static RUN: LazyLock<fn(&[u8])> =
            LazyLock::new(|| $crate::target($name).expect("a target of that name").run);

        $crate::fuzz_target!(|data: &[u8]| RUN(data));
    };
}
