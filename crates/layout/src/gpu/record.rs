/// One field of a [`Record`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Its type in the kernels' language.
    pub c_type: &'static str,
    /// Offset of its first byte.
    pub offset: usize,
    /// Its documentation, a line each.
    pub doc: &'static [&'static str],
}

/// Shape of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub name: &'static str,
    /// Length in bytes.
    pub bytes: usize,
    /// Its fields, in order.
    pub fields: &'static [Field],
    /// Its documentation, a line each.
    pub doc: &'static [&'static str],
}

/// Defines records: the struct, its encoding, and its shape. A field that is not naturally aligned, or a
/// record whose length is no multiple of 8, does not compile: the kernels' compiler would pad it.
macro_rules! records {
    ($(
        $(#[doc = $doc:literal])*
        pub struct $name:ident {
            $($(#[doc = $field_doc:literal])* $field:ident: $type:ty,)+
        }
    )+) => {$(
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[repr(C)]
        pub struct $name {
            $($(#[doc = $field_doc])* pub $field: $type,)+
        }

        impl $name {
            /// Length in bytes.
            pub const BYTES: usize = size_of::<Self>();

            /// Its shape.
            pub const RECORD: $crate::gpu::Record = $crate::gpu::Record {
                name: stringify!($name),
                bytes: Self::BYTES,
                fields: &[$($crate::gpu::Field {
                    name: stringify!($field),
                    c_type: <$type as $crate::gpu::Word>::C_NAME,
                    offset: std::mem::offset_of!($name, $field),
                    doc: &[$($field_doc),*],
                }),+],
                doc: &[$($doc),*],
            };

            /// The bytes that the kernels see.
            #[must_use]
            pub fn to_bytes(&self) -> Vec<u8> {
                let mut out = Vec::with_capacity(Self::BYTES);
                self.put(&mut out);
                out
            }

            /// Appends the bytes that the kernels see.
            pub fn put(&self, out: &mut Vec<u8>) {
                $($crate::gpu::Word::put(self.$field, out);)+
            }
        }

        const _: () = {
            let unpadded = 0 $(+ size_of::<$type>())+;
            assert!(unpadded == size_of::<$name>(), "a field would be padded");
            assert!(size_of::<$name>().is_multiple_of(8), "the length is no multiple of 8");
        };
    )+};
}
