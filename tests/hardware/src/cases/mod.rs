//! The cases, by what they need.

mod commands;
mod data;
mod pointers;
mod pool;
mod reading;
mod recovery;

use crate::{Outcome, Stop, Target};

/// One thing that must hold.
#[derive(Debug)]
pub struct Case {
    /// What holds, as a sentence in snake case.
    pub name: &'static str,
    /// Whether it overwrites blocks, which needs a [`crate::Window`].
    pub destructive: bool,
    body: fn(&Target) -> Result<(), Stop>,
}

impl Case {
    /// Runs the case by itself.
    #[must_use]
    pub fn run(&self, target: &Target) -> Outcome {
        if self.destructive && target.window.is_none() {
            return Outcome::NotOffered("nothing may be overwritten".to_owned());
        }
        match (self.body)(target) {
            Ok(()) => Outcome::Passed,
            Err(Stop::NotOffered(why)) => Outcome::NotOffered(why),
            Err(Stop::Failed(why)) => Outcome::Failed(why),
        }
    }
}

macro_rules! cases {
    ($($module:ident { $($kind:ident $name:ident;)+ })+) => {
        &[$($(Case {
            name: stringify!($name),
            destructive: cases!(@$kind),
            body: $module::$name,
        }),+),+]
    };
    (@reads) => { false };
    (@writes) => { true };
}

/// All cases, in the order in which they build on each other.
#[must_use]
pub fn cases() -> &'static [Case] {
    cases! {
        reading {
            reads a_controller_identifies_itself_alike_each_time_it_is_brought_up;
            reads the_first_and_the_last_block_of_every_namespace_can_be_read;
            reads blocks_past_the_end_are_refused;
            reads interrupts_wake_whoever_waits;
            reads the_health_log_can_be_read;
            reads many_reads_at_once_return_the_same_as_one_by_one;
        }
        data {
            writes what_is_written_is_read_at_every_size;
            writes what_is_written_is_read_at_every_alignment_of_memory;
            writes random_writes_and_reads_at_queue_depth_32_keep_every_block;
            writes queue_pairs_of_several_threads_do_not_disturb_each_other;
            writes a_queue_that_is_full_takes_the_rest_when_there_is_room;
        }
        pointers {
            writes scattered_pages_are_one_transfer;
            writes scattered_memory_of_odd_sizes_is_one_transfer;
            writes sgls_describe_what_prps_cannot;
            writes prps_alone_move_the_same_bytes;
        }
        commands {
            writes a_flush_completes_after_writes;
            writes a_write_with_fua_is_read_back;
            writes compare_tells_equal_from_different;
            writes write_zeroes_clears_its_blocks_and_no_others;
            writes deallocate_spares_the_blocks_around;
        }
        recovery {
            reads an_orderly_shutdown_completes_and_the_controller_comes_back;
            reads an_abort_of_no_command_is_answered;
            writes a_reset_in_mid_flight_ends_everything_once_and_the_drive_works;
            writes commands_that_miss_their_deadline_end_once_and_the_drive_works;
        }
        pool {
            writes a_store_keeps_its_objects_over_reopening_and_passes_fsck;
        }
    }
}
