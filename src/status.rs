//! What went wrong, as one small number: the codes of the C interface and the exceptions of Python.

use gcos_engine::fileio::FileIoError;
use gcos_engine::{IoError, IoErrorKind};
use gcos_hw::HwError;
use gcos_hw::kernel::KernelError;
use gcos_hw::pci::NamesError;
use gcos_hw::vfio::VfioError;
use gcos_store::{MissReason, StoreError};

use crate::config::ConfigError;
use crate::cuda::GpuError;
use crate::drives::OpenError;

macro_rules! statuses {
    ($($(#[doc = $doc:literal])* $name:ident = $number:literal, $text:literal;)*) => {
        /// How a call ended. Numbers and names are stable; new ones may be added.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(i32)]
        pub enum Status {
            $($(#[doc = $doc])* $name = $number,)*
        }

        impl Status {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Stable name, in lower case with underscores.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

statuses! {
    /// It went well.
    Ok = 0, "ok";
    /// An argument is out of its range, or does not go with the others. Nothing was done.
    InvalidArgument = -1, "invalid_argument";
    /// The configuration cannot be read, or says what cannot be.
    Config = -2, "config";
    /// A drive holds no pool, one that cannot be opened, or something else that would be lost.
    NotAPool = -3, "not_a_pool";
    /// The pool, a drive or memory is in use by somebody else.
    Busy = -4, "busy";
    /// A drive that the pool needs is not there, or does not answer.
    MissingDrive = -5, "missing_drive";
    /// A miss: no such key, or its object cannot be had. It is no failure of the store.
    NoSuchKey = -6, "no_such_key";
    /// There is no room, and nothing may be evicted.
    Full = -7, "full";
    /// The memory does not have the length of the object.
    WrongSize = -8, "wrong_size";
    /// A drive, a file or the system failed.
    Io = -9, "io";
    /// It did not end in time.
    Timeout = -10, "timeout";
    /// The store has been closed.
    Closed = -11, "closed";
    /// There is no memory left, or no addresses that drives reach.
    OutOfMemory = -12, "out_of_memory";
    /// A GPU or its driver failed.
    Gpu = -13, "gpu";
    /// It cannot be had here.
    Unsupported = -14, "unsupported";
    /// The store was opened by the parent of this process: open it again here.
    Forked = -15, "forked";
    /// A fault of the library. The store may be used on, or closed.
    Internal = -16, "internal";
}

impl Status {
    /// What kind of failure this is.
    #[must_use]
    pub fn of(error: &impl Classify) -> Self {
        error.status()
    }

    /// The stable number.
    #[must_use]
    pub fn code(self) -> i32 {
        self as i32
    }

    /// What a number stands for.
    #[must_use]
    pub fn from_code(code: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|status| status.code() == code)
    }

    fn of_os(error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        match error.kind() {
            Kind::OutOfMemory => Self::OutOfMemory,
            Kind::TimedOut => Self::Timeout,
            Kind::StorageFull | Kind::QuotaExceeded => Self::Full,
            Kind::ResourceBusy | Kind::WouldBlock => Self::Busy,
            Kind::Unsupported => Self::Unsupported,
            _ => Self::Io,
        }
    }
}

/// An error that has a [`Status`].
pub trait Classify: std::error::Error {
    /// What kind of failure it is; never [`Status::Ok`].
    fn status(&self) -> Status;
}

impl Classify for StoreError {
    fn status(&self) -> Status {
        match self {
            Self::Invalid { .. } => Status::InvalidArgument,
            Self::WrongSize { .. } => Status::WrongSize,
            Self::Full { .. } => Status::Full,
            Self::NotAPool { .. }
            | Self::Unopenable { .. }
            | Self::MixedPools { .. }
            | Self::Occupied { .. }
            | Self::Format { .. } => Status::NotAPool,
            Self::Io(error) => error.status(),
            Self::Memory(error) => error.status(),
            Self::Gpu(error) => error.status(),
            Self::DriveFailed { .. } => Status::MissingDrive,
            Self::TimedOut { .. } => Status::Timeout,
            Self::Closed => Status::Closed,
            // `RelaxedLost`, and what may come.
            _ => Status::Io,
        }
    }
}

impl Classify for MissReason {
    fn status(&self) -> Status {
        match self {
            // Whoever asked has to know that the memory is not theirs yet.
            Self::Unfinished { .. } => Status::Timeout,
            _ => Status::NoSuchKey,
        }
    }
}

impl Classify for IoError {
    fn status(&self) -> Status {
        match self.kind {
            IoErrorKind::Timeout | IoErrorKind::Unfinished => Status::Timeout,
            IoErrorKind::Gone | IoErrorKind::Demoted => Status::MissingDrive,
            _ => Status::Io,
        }
    }
}

impl Classify for HwError {
    fn status(&self) -> Status {
        match self {
            Self::Os { source, .. } => Status::of_os(source),
            Self::Invalid { .. } | Self::OutOfBounds(_) => Status::InvalidArgument,
            Self::Busy { .. } => Status::Busy,
            // `IovaExhausted`, `Map`: what a device is to reach is limited.
            _ => Status::OutOfMemory,
        }
    }
}

impl Classify for GpuError {
    fn status(&self) -> Status {
        match self {
            Self::Invalid { .. } | Self::Foreign { .. } | Self::OutOfBounds { .. } => {
                Status::InvalidArgument
            }
            Self::TimedOut { .. } => Status::Timeout,
            Self::NoRoom { .. } => Status::OutOfMemory,
            Self::Memory { source, .. } => source.status(),
            _ => Status::Gpu,
        }
    }
}

impl Classify for FileIoError {
    fn status(&self) -> Status {
        match self {
            Self::Memory(error) | Self::Gpu { source: error, .. } => error.status(),
            Self::Invalid { .. } | Self::NotAFile { .. } => Status::InvalidArgument,
            Self::PastEnd { .. } => Status::WrongSize,
            Self::NoRoom { .. } => Status::Full,
            Self::Open { source, .. } | Self::Io { source, .. } => Status::of_os(source),
            _ => Status::Io,
        }
    }
}

impl Classify for ConfigError {
    fn status(&self) -> Status {
        Status::Config
    }
}

impl Classify for OpenError {
    fn status(&self) -> Status {
        match self {
            Self::Vfio { source, .. } => of_vfio(source),
            Self::Name { source: NamesError::Unknown { .. }, .. } => Status::Config,
            Self::Name { .. }
            | Self::Exchanged { .. }
            | Self::NoFile { .. }
            | Self::NoImage { .. }
            | Self::Short { .. }
            | Self::Controller { .. }
            | Self::NoneLeft { .. } => Status::MissingDrive,
            Self::Mixed { .. }
            | Self::NoQueues { .. }
            | Self::Blocks { .. }
            | Self::BlockSize { .. }
            | Self::NothingToForce { .. }
            | Self::Path { .. } => Status::Config,
            Self::NoDirect { .. } | Self::Forced { .. } | Self::ForcedCuFile { .. } => {
                Status::Unsupported
            }
            Self::Kernel(KernelError::InUse { .. }) | Self::Locked { .. } => Status::Busy,
            Self::Kernel(KernelError::Os { source, .. }) | Self::Create { source, .. } => {
                Status::of_os(source)
            }
            Self::Kernel(_) => Status::Config,
            Self::Watch { source, .. } => source.status(),
            Self::Full { .. } => Status::Full,
            Self::Gpu { .. } => Status::Gpu,
            Self::Memory(error) => error.status(),
            _ => Status::Io,
        }
    }
}

fn of_vfio(error: &VfioError) -> Status {
    match error {
        VfioError::InUse { .. } | VfioError::NotViable { .. } => Status::Busy,
        VfioError::NotBound { .. } | VfioError::NoDevice { .. } => Status::MissingDrive,
        VfioError::Call { source, .. } if !error.is_gone() => Status::of_os(source),
        VfioError::Call { .. } => Status::MissingDrive,
        VfioError::Resource { source, .. } => source.status(),
        _ => Status::Unsupported,
    }
}

/// The message of an error with those of its sources, in one line; once where a layer repeats what is below it.
#[must_use]
pub fn message_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_those_that_programs_were_built_with() {
        let table: Vec<_> = Status::ALL.iter().map(|s| (s.code(), s.name())).collect();
        let expected = [
            (0, "ok"),
            (-1, "invalid_argument"),
            (-2, "config"),
            (-3, "not_a_pool"),
            (-4, "busy"),
            (-5, "missing_drive"),
            (-6, "no_such_key"),
            (-7, "full"),
            (-8, "wrong_size"),
            (-9, "io"),
            (-10, "timeout"),
            (-11, "closed"),
            (-12, "out_of_memory"),
            (-13, "gpu"),
            (-14, "unsupported"),
            (-15, "forked"),
            (-16, "internal"),
        ];
        assert_eq!(table, expected);
        assert_eq!(Status::from_code(-15), Some(Status::Forked));
        assert_eq!(Status::from_code(1), None);
    }

    #[test]
    fn errors_of_all_layers_have_a_status() {
        let invalid = StoreError::Invalid { what: "key", expected: "x".into(), got: "y".into() };
        assert_eq!(Status::of(&invalid), Status::InvalidArgument);
        assert_eq!(Status::of(&StoreError::Closed), Status::Closed);
        assert_eq!(Status::of(&MissReason::Expired), Status::NoSuchKey);
        let late = MissReason::Unfinished { detail: "held".into() };
        assert_eq!(Status::of(&late), Status::Timeout);
        let memory = StoreError::Memory(HwError::IovaExhausted { len: 5 });
        assert_eq!(Status::of(&memory), Status::OutOfMemory);
        assert_eq!(Status::of(&GpuError::NoDriver), Status::Gpu);
        let locked = OpenError::Locked { path: "image".into() };
        assert_eq!(Status::of(&locked), Status::Busy);
        let error = crate::Config::parse("{", "test").unwrap_err();
        assert_eq!(Status::of(&error), Status::Config);
        let read = crate::Config::load(std::path::Path::new("/no/such/file")).unwrap_err();
        assert_eq!(Status::of(&read), Status::Config);
        assert!(message_of(&read).contains("No such file"), "{}", message_of(&read));
    }
}
