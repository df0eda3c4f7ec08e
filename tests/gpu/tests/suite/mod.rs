//! What must hold of engines for GPU memory, on a GPU that is handed in: a played one in every run of the
//! tests, a real one where there is one.

pub(crate) mod data;
pub(crate) mod faults;
pub(crate) mod host_driven;
pub(crate) mod kills;
pub(crate) mod life;
pub(crate) mod rig;

/// Makes a test of each function for the GPU that `$gpu` gives.
macro_rules! suite {
    ($gpu:expr; $($module:ident: $($name:ident),+ $(,)?;)+) => {$(
        mod $module {
            $(#[test]
            fn $name() {
                crate::suite::$module::$name(&$gpu());
            })+
        }
    )+};
}
pub(crate) use suite;

/// The list of what there is.
macro_rules! whole_suite {
    ($gpu:expr) => {
        crate::suite::suite! { $gpu;
            data:
                what_is_written_is_read_by_the_gpu_and_by_the_host,
                extents_and_segments_are_cut_independently_of_each_other,
                memory_that_no_pointer_can_name_is_bounced,
                a_batch_larger_than_the_queue_goes_in_rounds,
                transfers_keep_the_order_of_their_stream,
                many_streams_at_once_keep_their_data_apart,
                doorbells_are_rung_directly_or_forwarded,
                queues_may_lie_in_host_memory,
                writes_with_force_unit_access_survive_a_power_cut;
            faults:
                an_error_status_fails_the_transfers_concerned_alone,
                a_lost_completion_is_a_timeout_once_and_the_pair_is_made_anew,
                a_completion_that_is_repeated_or_of_nobody_does_no_harm,
                a_controller_that_fails_is_reset_and_used_again,
                a_reset_ends_what_is_in_flight_and_the_pairs_are_made_anew,
                a_drive_that_is_removed_is_gone_and_the_host_takes_over_in_words,
                batches_behind_one_that_broke_the_pair_end_too,
                random_faults_leave_no_batch_without_an_end;
            life:
                what_does_not_fit_is_refused_before_anything_starts,
                pairs_that_others_hold_are_waited_for_no_longer_than_the_deadline,
                batches_of_one_stream_share_a_pair,
                an_engine_that_is_dropped_waits_for_its_batches,
                an_engine_that_is_shut_down_takes_nothing_more,
                a_drive_that_is_given_back_has_its_doorbells_let_go,
                a_stream_that_never_comes_ends_the_batch_and_keeps_its_memory,
                a_ticket_that_is_dropped_leaves_nothing_behind,
                a_batch_that_never_began_leaves_the_pair_to_those_behind_it,
                a_batch_that_is_overdue_behind_another_does_not_stop_that,
                an_overdue_batch_has_no_queue_pair_any_more,
                a_deadline_that_no_clock_can_say_is_none;
            kills:
                a_process_that_is_killed_leaves_gpu_and_drive_fit_for_use;
            host_driven:
                the_host_moves_data_in_the_order_of_the_stream,
                errors_come_with_their_transfer,
                work_before_that_does_not_end_ends_the_transfers;
        }
    };
}
pub(crate) use whole_suite;
