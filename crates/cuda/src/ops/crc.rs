//! What the host adds to CRC-32C sums: polynomials modulo the generator, bits reflected, so that bit 31 of a
//! word is the coefficient of x^0. `kernels/gcos/crc32c.h` is the same for kernels.

/// The generator without its highest term.
const GENERATOR: u32 = 0x82f6_3b78;

fn times_x(a: u32) -> u32 {
    (a >> 1) ^ if a & 1 == 1 { GENERATOR } else { 0 }
}

/// `a` times `b`.
fn times(mut a: u32, mut b: u32) -> u32 {
    let mut sum = 0;
    while a != 0 {
        if a >> 31 == 1 {
            sum ^= b;
        }
        a <<= 1;
        b = times_x(b);
    }
    sum
}

/// What shifts a remainder past `bytes` bytes.
fn past(mut bytes: u64) -> u32 {
    let (mut power, mut square) = (1 << 31, 1 << 23);
    while bytes != 0 {
        if bytes & 1 == 1 {
            power = times(power, square);
        }
        square = times(square, square);
        bytes >>= 1;
    }
    power
}

/// CRC-32C of `bytes` zeros: what makes a remainder of as many bytes their CRC-32C.
pub(super) fn of_zeros(bytes: u64) -> u32 {
    !times(u32::MAX, past(bytes))
}

/// The remainder of a sequence that goes on with `bytes` bytes whose remainder is `next`.
pub(super) fn join(before: u32, next: u32, bytes: u64) -> u32 {
    if before == 0 { next } else { times(before, past(bytes)) ^ next }
}

#[cfg(test)]
mod tests {
    use gcos_layout::checksum::crc32c;

    use super::*;

    #[test]
    fn zeros_and_joined_parts_give_the_checksum_of_the_format() {
        for len in [0, 1, 2, 3, 4, 5, 16, 1000, 65_536] {
            assert_eq!(of_zeros(len), crc32c(&vec![0; len as usize]), "{len}");
        }
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..50 {
            let mut bytes = vec![0; random.usize(1..3000)];
            random.fill(&mut bytes);
            let (a, b) = bytes.split_at(random.usize(0..=bytes.len()));
            let remainder = |part: &[u8]| crc32c(part) ^ of_zeros(part.len() as u64);
            let joined = join(remainder(a), remainder(b), b.len() as u64);
            assert_eq!(joined ^ of_zeros(bytes.len() as u64), crc32c(&bytes));
        }
    }
}
