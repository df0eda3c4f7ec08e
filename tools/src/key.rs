use std::fmt::Write;
use std::str::FromStr;

/// A key as it is typed and printed. Keys are bytes: text stands for its UTF-8 form, `hex:` and
/// digits for any bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) Vec<u8>);

/// Why a key was not understood.
#[derive(Debug, thiserror::Error)]
#[error("expected an even number of hexadecimal digits after hex:")]
pub(crate) struct KeyError;

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let Some(digits) = text.strip_prefix("hex:") else {
            return Ok(Self(text.as_bytes().to_vec()));
        };
        let nibble = |byte: &u8| char::from(*byte).to_digit(16).ok_or(KeyError);
        let pairs = digits.as_bytes().chunks(2);
        pairs
            .map(|pair| match pair {
                [high, low] => Ok((nibble(high)? * 16 + nibble(low)?) as u8),
                _ => Err(KeyError),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// A key for reading: text as it is, control characters and what is no UTF-8 as escapes.
pub(crate) fn show(key: &[u8]) -> String {
    let mut shown = String::with_capacity(key.len());
    for chunk in key.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => shown.push_str("\\\\"),
                c if c.is_control() => shown.extend(c.escape_default()),
                c => shown.push(c),
            }
        }
        for byte in chunk.invalid() {
            let _infallible: Result<(), std::fmt::Error> = write!(shown, "\\x{byte:02x}");
        }
    }
    shown
}

/// A key that can be typed again: text where it is printable, else `hex:` and digits.
pub(crate) fn typed(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.starts_with("hex:") && !text.chars().any(char::is_control) => {
            text.to_owned()
        }
        _ => key.iter().fold("hex:".to_owned(), |mut text, byte| {
            let _infallible: Result<(), std::fmt::Error> = write!(text, "{byte:02x}");
            text
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_hex_parse() {
        assert_eq!("a/b".parse::<Key>().unwrap().0, b"a/b");
        assert_eq!("hex:00fF10".parse::<Key>().unwrap().0, [0, 0xff, 0x10]);
        assert_eq!("hex:".parse::<Key>().unwrap().0, b"");
        for bad in ["hex:0", "hex:zz", "hex:0g", "hex:é1"] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_print_without_control_characters_and_type_back() {
        assert_eq!(show(b"kv/\xc3\xa9\n\xff\\"), "kv/\u{e9}\\n\\xff\\\\");
        for key in [&b"plain"[..], b"a\nb", b"\xff\x00", b"hex:00", b""] {
            assert_eq!(typed(key).parse::<Key>().unwrap().0, key);
        }
    }
}
