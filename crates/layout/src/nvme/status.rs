use std::fmt;

/// Status field of a completion: 15 bits (Base, section 4.2.3, Figure 93).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Status(pub u16);

fields!(pub Status(u16) {
    /// SC: status code, within its type.
    sc, with_sc: u8 = 7:0;
    /// SCT: status code type; 0 generic, 1 command specific, 2 media and data integrity, 3 path
    /// related, 7 vendor specific.
    sct, with_sct: u8 = 10:8;
    /// CRD: which command retry delay of the controller applies; 0 is none.
    crd, with_crd: u8 = 12:11;
    /// M: more is in the error log.
    more, with_more: bool = 13:13;
    /// DNR: the same command would fail again.
    dnr, with_dnr: bool = 14:14;
});

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $sct:literal, $sc:literal, $words:literal;)*) => {
        impl Status {
            $(
                #[doc = concat!($words, ".")]
                pub const $name: Status = Status(($sct as u16) << 8 | $sc as u16);
            )*

            /// The specification's words for the code, "unknown status" for codes without a name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match (self.sct(), self.sc()) {
                    $(($sct, $sc) => $words,)*
                    (3, _) => "unknown path related status",
                    (7, _) => "vendor specific status",
                    _ => "unknown status",
                }
            }

            /// Every code that has a name.
            #[cfg(test)]
            const NAMED: &[Status] = &[$(Status::$name),*];
        }
    };
}

// Base, Figures 94 to 97; NVM, Figures 15 to 17.
statuses! {
    SUCCESS = 0, 0x00, "Successful Completion";
    INVALID_OPCODE = 0, 0x01, "Invalid Command Opcode";
    INVALID_FIELD = 0, 0x02, "Invalid Field in Command";
    CID_CONFLICT = 0, 0x03, "Command ID Conflict";
    DATA_TRANSFER_ERROR = 0, 0x04, "Data Transfer Error";
    POWER_LOSS_ABORT = 0, 0x05, "Commands Aborted due to Power Loss Notification";
    INTERNAL_ERROR = 0, 0x06, "Internal Error";
    ABORT_REQUESTED = 0, 0x07, "Command Abort Requested";
    SQ_DELETION_ABORT = 0, 0x08, "Command Aborted due to SQ Deletion";
    FAILED_FUSED = 0, 0x09, "Command Aborted due to Failed Fused Command";
    MISSING_FUSED = 0, 0x0A, "Command Aborted due to Missing Fused Command";
    INVALID_NAMESPACE = 0, 0x0B, "Invalid Namespace or Format";
    SEQUENCE_ERROR = 0, 0x0C, "Command Sequence Error";
    INVALID_SGL_SEGMENT = 0, 0x0D, "Invalid SGL Segment Descriptor";
    INVALID_SGL_COUNT = 0, 0x0E, "Invalid Number of SGL Descriptors";
    INVALID_SGL_DATA_LENGTH = 0, 0x0F, "Data SGL Length Invalid";
    INVALID_SGL_METADATA_LENGTH = 0, 0x10, "Metadata SGL Length Invalid";
    INVALID_SGL_TYPE = 0, 0x11, "SGL Descriptor Type Invalid";
    INVALID_CMB_USE = 0, 0x12, "Invalid Use of Controller Memory Buffer";
    INVALID_PRP_OFFSET = 0, 0x13, "PRP Offset Invalid";
    ATOMIC_WRITE_UNIT_EXCEEDED = 0, 0x14, "Atomic Write Unit Exceeded";
    OPERATION_DENIED = 0, 0x15, "Operation Denied";
    INVALID_SGL_OFFSET = 0, 0x16, "SGL Offset Invalid";
    SANITIZE_FAILED = 0, 0x1C, "Sanitize Failed";
    SANITIZE_IN_PROGRESS = 0, 0x1D, "Sanitize In Progress";
    INVALID_SGL_GRANULARITY = 0, 0x1E, "SGL Data Block Granularity Invalid";
    INVALID_QUEUE_IN_CMB = 0, 0x1F, "Command Not Supported for Queue in CMB";
    NAMESPACE_WRITE_PROTECTED = 0, 0x20, "Namespace is Write Protected";
    COMMAND_INTERRUPTED = 0, 0x21, "Command Interrupted";
    TRANSIENT_TRANSPORT_ERROR = 0, 0x22, "Transient Transport Error";
    COMMAND_PROHIBITED = 0, 0x23, "Command Prohibited by Command and Feature Lockdown";
    MEDIA_NOT_READY = 0, 0x24, "Admin Command Media Not Ready";
    LBA_OUT_OF_RANGE = 0, 0x80, "LBA Out of Range";
    CAPACITY_EXCEEDED = 0, 0x81, "Capacity Exceeded";
    NAMESPACE_NOT_READY = 0, 0x82, "Namespace Not Ready";
    RESERVATION_CONFLICT = 0, 0x83, "Reservation Conflict";
    FORMAT_IN_PROGRESS = 0, 0x84, "Format In Progress";
    INVALID_CQ = 1, 0x00, "Completion Queue Invalid";
    INVALID_QID = 1, 0x01, "Invalid Queue Identifier";
    INVALID_QUEUE_SIZE = 1, 0x02, "Invalid Queue Size";
    ABORT_LIMIT_EXCEEDED = 1, 0x03, "Abort Command Limit Exceeded";
    AER_LIMIT_EXCEEDED = 1, 0x05, "Asynchronous Event Request Limit Exceeded";
    INVALID_FIRMWARE_SLOT = 1, 0x06, "Invalid Firmware Slot";
    INVALID_INTERRUPT_VECTOR = 1, 0x08, "Invalid Interrupt Vector";
    INVALID_LOG_PAGE = 1, 0x09, "Invalid Log Page";
    INVALID_FORMAT = 1, 0x0A, "Invalid Format";
    INVALID_QUEUE_DELETION = 1, 0x0C, "Invalid Queue Deletion";
    FEATURE_NOT_SAVEABLE = 1, 0x0D, "Feature Identifier Not Saveable";
    FEATURE_NOT_CHANGEABLE = 1, 0x0E, "Feature Not Changeable";
    IO_COMMAND_SET_NOT_SUPPORTED = 1, 0x29, "I/O Command Set Not Supported";
    IO_COMMAND_SET_NOT_ENABLED = 1, 0x2A, "I/O Command Set Not Enabled";
    INVALID_IO_COMMAND_SET = 1, 0x2C, "Invalid I/O Command Set";
    CONFLICTING_ATTRIBUTES = 1, 0x80, "Conflicting Attributes";
    INVALID_PROTECTION = 1, 0x81, "Invalid Protection Information";
    READ_ONLY_RANGE = 1, 0x82, "Attempted Write to Read Only Range";
    WRITE_FAULT = 2, 0x80, "Write Fault";
    UNRECOVERED_READ_ERROR = 2, 0x81, "Unrecovered Read Error";
    GUARD_CHECK_ERROR = 2, 0x82, "End-to-end Guard Check Error";
    APPLICATION_TAG_ERROR = 2, 0x83, "End-to-end Application Tag Check Error";
    REFERENCE_TAG_ERROR = 2, 0x84, "End-to-end Reference Tag Check Error";
    COMPARE_FAILURE = 2, 0x85, "Compare Failure";
    ACCESS_DENIED = 2, 0x86, "Access Denied";
    UNWRITTEN_BLOCK = 2, 0x87, "Deallocated or Unwritten Logical Block";
    STORAGE_TAG_ERROR = 2, 0x88, "End-to-End Storage Tag Check Error";
    INTERNAL_PATH_ERROR = 3, 0x00, "Internal Path Error";
    ANA_PERSISTENT_LOSS = 3, 0x01, "Asymmetric Access Persistent Loss";
    ANA_INACCESSIBLE = 3, 0x02, "Asymmetric Access Inaccessible";
    ANA_TRANSITION = 3, 0x03, "Asymmetric Access Transition";
    CONTROLLER_PATHING_ERROR = 3, 0x60, "Controller Pathing Error";
    HOST_PATHING_ERROR = 3, 0x70, "Host Pathing Error";
    HOST_ABORTED = 3, 0x71, "Command Aborted By Host";
}

impl Status {
    /// SCT of media and data integrity errors.
    pub const SCT_MEDIA: u8 = 2;

    /// A status of the given type and code, known or not.
    #[must_use]
    pub fn new(sct: u8, sc: u8) -> Self {
        Self::default().with_sct(sct).with_sc(sc)
    }

    /// Type and code alone, for comparing with the constants: without CRD, M and DNR.
    #[must_use]
    pub fn code(self) -> Self {
        Self(self.0 & 0x7FF)
    }

    /// Whether the command succeeded.
    #[must_use]
    #[inline]
    pub fn is_success(self) -> bool {
        self.0 & 0x7FF == 0
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SCT {:X}h, SC {:02X}h", self.name(), self.sct(), self.sc())?;
        f.write_str(if self.dnr() { ", do not retry)" } else { ")" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn named_codes_are_distinct_and_survive_their_flags() {
        let codes: HashSet<_> = Status::NAMED.iter().copied().collect();
        assert_eq!(codes.len(), Status::NAMED.len());
        for &status in Status::NAMED {
            let flagged = status.with_dnr(true).with_more(true).with_crd(2);
            assert_eq!(flagged.code(), status);
            assert_eq!(flagged.name(), status.name());
            assert_eq!(status.is_success(), status == Status::SUCCESS);
            assert_eq!(Status::new(status.sct(), status.sc()), status);
        }
    }

    #[test]
    fn unknown_codes_keep_their_numbers() {
        let status = Status::new(0, 0x7F).with_dnr(true);
        assert_eq!(status.to_string(), "unknown status (SCT 0h, SC 7Fh, do not retry)");
        assert_eq!(Status::new(7, 1).name(), "vendor specific status");
    }

    #[test]
    fn flags_are_where_the_figure_says() {
        assert_eq!(Status::SUCCESS.with_dnr(true).0, 0x4000);
        assert_eq!(Status::SUCCESS.with_more(true).0, 0x2000);
        assert_eq!(Status::UNRECOVERED_READ_ERROR.0, 0x281);
    }
}
