use gcos_hw::{DmaBuffer, DmaSlice};

/// Where a put takes its payload from.
#[derive(Debug, Clone)]
pub enum Source<'a> {
    /// Any memory: copied through staging buffers.
    Bytes(&'a [u8]),
    /// Device-visible memory, in order, moved without a copy.
    Segments(&'a [DmaSlice]),
    /// A whole device-visible buffer.
    Buffer(&'a DmaBuffer),
}

/// Where a get puts the payload.
#[derive(Debug)]
pub enum Sink<'a> {
    /// Any memory: copied through staging buffers.
    Bytes(&'a mut [u8]),
    /// Device-visible memory, in order, moved without a copy.
    Segments(&'a [DmaSlice]),
    /// A whole device-visible buffer.
    Buffer(&'a mut DmaBuffer),
}

impl Source<'_> {
    /// Total length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Source::Bytes(bytes) => bytes.len() as u64,
            Source::Segments(segments) => segments.iter().map(|s| s.len() as u64).sum(),
            Source::Buffer(buffer) => buffer.len() as u64,
        }
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Sink<'_> {
    /// Total length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Sink::Bytes(bytes) => bytes.len() as u64,
            Sink::Segments(segments) => segments.iter().map(|s| s.len() as u64).sum(),
            Sink::Buffer(buffer) => buffer.len() as u64,
        }
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> From<&'a [u8]> for Source<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Source::Bytes(bytes)
    }
}

impl<'a> From<&'a DmaBuffer> for Source<'a> {
    fn from(buffer: &'a DmaBuffer) -> Self {
        Source::Buffer(buffer)
    }
}

impl<'a> From<&'a mut [u8]> for Sink<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        Sink::Bytes(bytes)
    }
}

impl<'a> From<&'a mut DmaBuffer> for Sink<'a> {
    fn from(buffer: &'a mut DmaBuffer) -> Self {
        Sink::Buffer(buffer)
    }
}
