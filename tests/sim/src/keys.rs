//! Names of the keys that plans number.

/// The bytes of a key: of all lengths that keys may have.
#[must_use]
pub fn key_bytes(key: u8) -> Vec<u8> {
    match key {
        0 => Vec::new(),
        key if key % 9 == 4 => {
            let mut long = vec![key; 1024];
            long[1023] = 0;
            long
        }
        key if key % 3 == 1 => format!("prefix/{key}/of a chain").into_bytes(),
        key => vec![b'k', key],
    }
}
