/// A type that a field of a record may have.
pub trait Word: Copy {
    /// Its name in the kernels' language.
    const C_NAME: &'static str;

    /// Appends it, little endian.
    fn put(self, out: &mut Vec<u8>);
}

macro_rules! words {
    ($($rust:ty => $c:literal),* $(,)?) => {
        $(impl Word for $rust {
            const C_NAME: &'static str = $c;

            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        })*
    };
}

words! { u32 => "std::uint32_t", u64 => "std::uint64_t" }
