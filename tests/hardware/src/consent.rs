use crate::Window;

/// Most bytes of a drive that are overwritten, from its start.
const MOST_BYTES: u64 = 1 << 30;

/// What of a drive may be overwritten, by the consent that its owner gave: its serial number.
///
/// # Errors
/// A message when the consent is for another drive: nothing may be tested then, since the wrong drive
/// may have been named.
pub fn consent(
    serial: &str,
    given: Option<&str>,
    blocks: u64,
    lba_bytes: u32,
) -> Result<Option<Window>, String> {
    match given {
        None => Ok(None),
        Some(given) if given == serial && !serial.is_empty() => {
            let lba = u64::from(lba_bytes).max(1);
            let page = (4096 / lba).max(1);
            Ok(Some(Window { slba: 0, blocks: (MOST_BYTES / lba).min(blocks) / page * page }))
        }
        Some(given) => Err(format!(
            "consent was given to erase the drive with serial number {given:?}, this one has \
             {serial:?}; nothing was done"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_drive_whose_serial_number_was_given_is_overwritten_and_only_its_start() {
        let window = |blocks| Some(Window { slba: 0, blocks });
        assert_eq!(consent("A1", Some("A1"), 1 << 40, 512), Ok(window(1 << 21)));
        assert_eq!(consent("A1", Some("A1"), 1003, 512), Ok(window(1000)));
        assert_eq!(consent("A1", Some("A1"), 1 << 40, 4096), Ok(window(1 << 18)));
        assert_eq!(consent("A1", None, 1 << 40, 512), Ok(None));
        for (serial, given) in [("A1", "A2"), ("A1", ""), ("", ""), ("A1", "a1"), ("A1", "A1 ")] {
            assert!(consent(serial, Some(given), 1 << 40, 512).is_err(), "{serial:?} {given:?}");
        }
    }
}
