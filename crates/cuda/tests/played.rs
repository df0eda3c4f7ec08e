//! A GPU that host threads play keeps to what `suite` says.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a step that fails fails its test"
)]

mod suite;

use gcos_cuda::{ForeignMemory, Gpu, GpuError, PlayedOptions, Probe, Rung, Stream, VramWindow};

macro_rules! suite {
    ($($name:ident $(($($more:expr),+))?;)+) => {$(
        #[test]
        fn $name() {
            suite::$name(&Gpu::played() $(, $($more),+)?);
        }
    )+};
}

suite! {
    copies_of_a_stream_are_done_in_order;
    a_copy_of_unequal_or_foreign_ends_is_refused(Some(&Gpu::played()));
    a_stream_waits_for_an_event_of_another;
    a_word_is_seen_after_the_work_before_it;
    a_function_of_the_host_runs_in_its_turn;
    gates_of_a_stream_open_in_order_and_by_being_dropped;
    memory_in_use_by_a_stream_is_not_given_to_others;
    what_is_kept_is_dropped_when_the_stream_has_passed;
    a_borrowed_stream_is_the_same_stream;
    an_allocation_is_aligned_and_reached_by_gpu_and_drives(Rung::Window);
    memory_grows_by_windows_up_to_its_bound;
    memory_is_free_when_no_slice_has_it_not_even_a_drives;
    the_probe_says_what_works_and_why_the_rest_does_not(Rung::Window);
    memory_of_others_is_checked;
    too_much_memory_is_refused_by_name;
    a_kernel_is_launched_with_its_record;
    a_launch_without_sense_is_refused;
    kernels_do_not_spill;
}

#[test]
fn memory_in_host_memory_keeps_to_the_same_rules() {
    suite::an_allocation_is_aligned_and_reached_by_gpu_and_drives(&Gpu::played(), Rung::Staging);
}

#[test]
fn without_windows_memory_lies_in_host_memory_and_the_reason_is_told() {
    let gpu = Gpu::played_with(PlayedOptions { windows: false, ..PlayedOptions::default() });
    suite::the_probe_says_what_works_and_why_the_rest_does_not(&gpu, Rung::Staging);
    let probe = Probe::of(&gpu).unwrap().to_string();
    assert!(probe.contains("without windows") && probe.contains("not gdrcopy"), "{probe}");
    assert_eq!(suite::memory(&gpu).rung(), Rung::Staging);
}

#[test]
fn memory_of_another_gpu_is_refused_by_its_number() {
    let one = Gpu::played();
    let two = Gpu::played_with(PlayedOptions { ordinal: 1, ..PlayedOptions::default() });
    assert!(!one.same(&two) && one.same(&one));
    let window = VramWindow::new(&two, 4096).unwrap();
    ForeignMemory::check(&two, window.device_address(), 4096).unwrap();
    let error = ForeignMemory::check(&one, window.device_address(), 4096).unwrap_err();
    assert!(error.to_string().contains("expected memory of GPU 0, it is of GPU 1"), "{error}");
    let stream = Stream::new(&two).unwrap();
    // SAFETY: `stream` lives to the end of the test.
    let error = unsafe { Stream::borrow(&one, stream.raw() + 1000) }.unwrap_err();
    assert!(matches!(error, GpuError::Invalid { .. }), "{error}");
}

#[test]
fn memory_that_the_gpu_claims_not_to_have_is_refused() {
    let options = PlayedOptions { memory_bytes: 8 << 20, ..PlayedOptions::default() };
    let gpu = Gpu::played_with(options);
    let window = VramWindow::new(&gpu, 6 << 20).unwrap();
    assert!(VramWindow::new(&gpu, 4 << 20).is_err());
    assert_eq!(gpu.memory_info().unwrap().free_bytes, 2 << 20);
    drop(window);
    VramWindow::new(&gpu, 8 << 20).unwrap();
}

#[test]
fn a_stream_that_has_failed_says_so_for_good_and_does_nothing_more() {
    let gpu = Gpu::played();
    let kernels = gcos_cuda::Kernels::load(&gpu).unwrap();
    let stream = Stream::new(&gpu).unwrap();
    let shape = gcos_cuda::LaunchShape { grid: 1, block: 32, shared_bytes: 0 };
    kernels.launch(&stream, "gcos_nothing", shape, &[0; 8]).unwrap();
    let host = gcos_cuda::Pinned::new(&gpu, 4096).unwrap();
    stream.write_word(&host.slice(0, 4).unwrap(), 1).unwrap();
    let wait = std::time::Duration::from_secs(20);
    for _ in 0..2 {
        let error = stream.synchronize(wait).unwrap_err();
        assert!(error.to_string().contains("gcos_nothing"), "{error}");
    }
    drop(stream);
    assert_eq!(host.memory().load_u32(0, std::sync::atomic::Ordering::Acquire), Ok(0));
}

/// The build script says what the compiler told it.
#[test]
fn kernels_are_built_for_both_generations_where_that_is_required() {
    let built = gcos_cuda::built_kernels();
    if option_env!("GCOS_KERNELS") == Some("require") {
        assert!(!built.is_empty() && !gcos_cuda::kernel_compiler().is_empty());
    }
    for kernel in built {
        for target in ["sm_80", "sm_90"] {
            let same = |other: &&gcos_cuda::BuiltKernel| {
                (other.name, other.target) == (kernel.name, target)
            };
            assert_eq!(built.iter().filter(same).count(), 1, "{} for {target}", kernel.name);
        }
    }
    assert!(built.is_empty() || built.iter().any(|kernel| kernel.name == "gcos_io"));
}
