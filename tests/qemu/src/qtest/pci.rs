//! What firmware does on a PC: finds the functions, gives them addresses, switches them on.

use super::link::Link;

/// Class code of NVMe controllers and of PCI-to-PCI bridges.
const CLASS_NVME: u32 = 0x01_08_02;
const CLASS_BRIDGE: u32 = 0x06_04_00;

/// Memory decoding and bus mastering, in the command register.
const COMMAND: u64 = 0x6;

/// Where addresses are given out: above all RAM, and below 4 GiB for what lies behind bridges.
const HIGH: u64 = 0x80_0000_0000;
const LOW: u64 = 0xC000_0000;

/// Address space for what lies behind one bridge.
const BEHIND_BRIDGE: u64 = 16 << 20;

const CAP_PCIE: u8 = 0x10;
const CAP_MSIX: u8 = 0x11;

/// The configuration space of one function, through ports CF8h and CFCh.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    bus: u8,
    device: u8,
}

impl Place {
    fn select(self, link: &Link, offset: u8) {
        let place = u64::from(self.bus) << 16 | u64::from(self.device) << 11;
        link.tell("outl", 0xcf8, 0x8000_0000 | place | u64::from(offset & 0xfc));
    }

    fn read(self, link: &Link, offset: u8) -> u32 {
        self.select(link, offset);
        link.ask("inl", 0xcfc) as u32
    }

    fn write(self, link: &Link, offset: u8, value: u32) {
        self.select(link, offset);
        link.tell("outl", 0xcfc, value.into());
    }

    fn write16(self, link: &Link, offset: u8, value: u16) {
        self.select(link, offset);
        link.tell("outw", 0xcfc + u64::from(offset & 2), value.into());
    }

    /// Whether a function answers here: the vendor of a missing one reads as all ones.
    pub(crate) fn is_present(self, link: &Link) -> bool {
        self.read(link, 0) & 0xFFFF != 0xFFFF
    }

    fn class(self, link: &Link) -> u32 {
        self.read(link, 8) >> 8
    }

    /// Where the capability of this kind is.
    fn capability(self, link: &Link, id: u8) -> Option<u8> {
        let mut at = self.read(link, 0x34) as u8 & 0xfc;
        // A list cannot be longer than the space has room for.
        for _ in 0..48 {
            if at == 0 {
                return None;
            }
            let header = self.read(link, at);
            if header as u8 == id {
                return Some(at);
            }
            at = (header >> 8) as u8 & 0xfc;
        }
        None
    }
}

/// An NVMe function that has been switched on.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) place: Place,
    /// The root port that it is behind, if it is.
    pub(crate) port: Option<Place>,
    /// Address and length of BAR0.
    pub(crate) registers: u64,
    pub(crate) registers_len: u64,
    /// Address of the MSI-X table and number of entries.
    pub(crate) table: u64,
    pub(crate) vectors: u16,
}

/// Brings up all NVMe functions of the machine, in the order of their places.
pub(crate) fn bring_up(link: &Link) -> Result<Vec<Found>, String> {
    let mut high = HIGH;
    let mut low = LOW;
    let mut next_bus = 1;
    let mut found = Vec::new();
    for device in 0..32 {
        let place = Place { bus: 0, device };
        match place.class(link) {
            CLASS_NVME => found.push(switch_on(link, place, None, &mut high)?),
            CLASS_BRIDGE => {
                let bus = next_bus;
                next_bus += 1;
                open_bridge(link, place, bus, low);
                let mut behind = low;
                let inner = Place { bus, device: 0 };
                if inner.class(link) == CLASS_NVME {
                    found.push(switch_on(link, inner, Some(place), &mut behind)?);
                }
                low += BEHIND_BRIDGE;
            }
            _ => {}
        }
    }
    match found.is_empty() {
        true => Err("the machine has no NVMe controller".to_owned()),
        false => Ok(found),
    }
}

/// Lets accesses to a bus and to some addresses through.
fn open_bridge(link: &Link, bridge: Place, bus: u8, start: u64) {
    let bus = u32::from(bus);
    bridge.write(link, 0x18, bus << 16 | bus << 8);
    let last = start + BEHIND_BRIDGE - 1;
    bridge.write(link, 0x20, (last as u32 & 0xFFF0_0000) | (start as u32 >> 16 & 0xFFF0));
    // No prefetchable window: its base lies above its limit.
    bridge.write(link, 0x24, 0x0000_FFF0);
    bridge.write16(link, 4, COMMAND as u16);
}

fn switch_on(
    link: &Link,
    place: Place,
    port: Option<Place>,
    free: &mut u64,
) -> Result<Found, String> {
    let mut bars = [(0, 0); 6];
    let mut index = 0;
    while index < bars.len() {
        let offset = 0x10 + 4 * index as u8;
        place.write(link, offset, u32::MAX);
        let low = place.read(link, offset);
        let wide = low & 6 == 4;
        let mut size = u64::from(low & !0xf) | 0xFFFF_FFFF_0000_0000;
        if wide {
            place.write(link, offset + 4, u32::MAX);
            size = u64::from(low & !0xf) | u64::from(place.read(link, offset + 4)) << 32;
        }
        if low & !0xf != 0 {
            let len = (!size).wrapping_add(1);
            let address = free.next_multiple_of(len);
            *free = address + len;
            place.write(link, offset, address as u32);
            if wide {
                place.write(link, offset + 4, (address >> 32) as u32);
            }
            bars[index] = (address, len);
        }
        index += if wide { 2 } else { 1 };
    }
    place.write16(link, 4, COMMAND as u16);
    let none = |what| format!("an NVMe function at {place:?} without {what}");
    let msix = place.capability(link, CAP_MSIX).ok_or_else(|| none("MSI-X"))?;
    let control = place.read(link, msix) >> 16;
    let table = place.read(link, msix + 4);
    let (bar, _) = bars.get((table & 7) as usize).copied().unwrap_or_default();
    // Enabled, and not masked as a whole.
    place.write16(link, msix + 2, 0x8000);
    let (registers, len) = bars[0];
    let registers_len = if table & 7 == 0 { u64::from(table & !7) } else { len };
    if registers == 0 || bar == 0 {
        return Err(none("the memory that it needs"));
    }
    let vectors = (control & 0x7FF) as u16 + 1;
    Ok(Found { place, port, registers, registers_len, table: bar + u64::from(table & !7), vectors })
}

/// Answers a request to unplug as an operating system does: switches the slot's power off.
pub(crate) fn power_off_slot(link: &Link, port: Place) -> Result<(), String> {
    let express = port.capability(link, CAP_PCIE).ok_or("the root port is not PCI Express")?;
    let control = port.read(link, express + 0x18) as u16;
    // Power indicator off (11b in bits 9:8) and power controller off (bit 10).
    port.write16(link, express + 0x18, control | 0x0700);
    // Acknowledges the attention button and the changes of presence.
    port.write16(link, express + 0x1a, 0x001f);
    Ok(())
}
