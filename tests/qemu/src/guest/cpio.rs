//! Archives in the format that the kernel unpacks at boot (`newc`: see the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst`).

/// Kinds of entries, in the upper bits of a mode.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive being written. Entries appear in the order in which they are added; the kernel wants
/// a folder before what lies in it.
#[derive(Debug, Default)]
pub struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    /// Adds a folder that everybody may enter.
    pub fn folder(&mut self, path: &str) {
        self.entry(path, FOLDER | 0o755, &[]);
    }

    /// Adds a file with these permissions.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, FILE | permissions, content);
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.entry(path, LINK | 0o777, target.as_bytes());
    }

    /// The archive with its closing entry.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        // Inode numbers tell hard links apart; each entry has its own.
        self.entries += 1;
        // A file of 4 GiB would not fit the field; it would not fit the guest either.
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_the_documented_bytes() {
        let mut archive = Cpio::default();
        archive.folder("bin");
        archive.file("bin/a", 0o755, b"hello");
        archive.link("b", "bin/a");
        let bytes = archive.finish();
        let header = b"0707010000000100004\
            1ed0000000000000000000000010000000000000000000000000000000000000000000000000000000400000000bin\0";
        assert_eq!(bytes[..header.len()], header[..]);
        let text = String::from_utf8(bytes.clone()).unwrap();
        // 110 bytes of header and a name of 2 or 6 end on a multiple of 4; the content is padded.
        assert!(text.contains("00000000bin/a\x00hello\x00\x00\x00070701"));
        assert!(text.contains("00000000b\x00bin/a\x00\x00\x00070701"), "{text:?}");
        assert!(text.ends_with("TRAILER!!!\0\0\0\0"));
        assert_eq!(bytes.len() % 4, 0);
    }
}
