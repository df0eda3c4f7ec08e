use std::fmt;
use std::str::FromStr;

/// Address of a PCI function: domain, bus, device, function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    /// PCI segment. Hardware has 16 bits; virtual root complexes (such as VMD) take more.
    pub domain: u32,
    /// Bus, 0 to 255.
    pub bus: u8,
    /// Device on the bus, 0 to 31.
    pub device: u8,
    /// Function of the device, 0 to 7.
    pub function: u8,
}

/// A text that is no PCI address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no PCI address; expected domain:bus:device.function, such as 0000:c1:00.0")]
pub struct PciAddressError {
    /// The text.
    pub text: String,
}

impl FromStr for PciAddress {
    type Err = PciAddressError;

    /// Reads `dddd:bb:dd.f` in hexadecimal, or `bb:dd.f` as `lspci` writes it in domain 0.
    fn from_str(text: &str) -> Result<Self, PciAddressError> {
        parse(text).ok_or_else(|| PciAddressError { text: text.to_owned() })
    }
}

fn parse(text: &str) -> Option<PciAddress> {
    let hex = |part: &str, least: usize, most: usize| {
        let fits = (least..=most).contains(&part.len());
        let digits = fits && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        if digits { u32::from_str_radix(part, 16).ok() } else { None }
    };
    let (rest, function) = text.rsplit_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0000", rest));
    let address = PciAddress {
        domain: hex(domain, 4, 8)?,
        bus: u8::try_from(hex(bus, 2, 2)?).ok()?,
        device: u8::try_from(hex(device, 2, 2)?).ok()?,
        function: u8::try_from(hex(function, 1, 1)?).ok()?,
    };
    (address.device < 32 && address.function < 8).then_some(address)
}

impl fmt::Display for PciAddress {
    /// As sysfs names it: `0000:c1:00.0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_and_print_as_sysfs_names_them() {
        for (text, printed) in [
            ("0000:C1:00.0", "0000:c1:00.0"),
            ("c1:1f.7", "0000:c1:1f.7"),
            ("10000:01:00.0", "10000:01:00.0"),
        ] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "",
            "c1",
            "c1:00",
            "c1:00.8",
            "c1:20.0",
            "g1:00.0",
            "000:c1:00.0",
            "+1:00.0",
            "0000:c1:00.00",
            "0:0000:c1:00.0",
            "/dev/nvme0",
            "c1:00.-",
        ] {
            assert!(bad.parse::<PciAddress>().is_err(), "{bad}");
        }
    }
}
