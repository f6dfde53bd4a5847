//! The password of an instance whose caller names none.

use crate::bindings::dev_postgres::plugin::random;

/// 160 bits: out of reach of guessing, and 32 characters without padding.
const RANDOM_BYTES: u32 = 20;

/// RFC 4648 base32 in lower case: nothing that a URI, a shell or a configuration file would have to quote.
const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A password of the host's randomness.
#[must_use]
pub fn generate() -> String {
    from_random(&random::bytes(RANDOM_BYTES))
}

/// Writes `random` down, five bits per character; what is left over of less than five bits is dropped.
fn from_random(random: &[u8]) -> String {
    let mut text = String::new();
    let mut window = 0_u16;
    let mut unwritten_bits = 0;
    for &byte in random {
        window = (window << 8) | u16::from(byte);
        unwritten_bits += 8;
        while unwritten_bits >= 5 {
            unwritten_bits -= 5;
            let digit = DIGITS[usize::from((window >> unwritten_bits) & 31)];
            text.push(char::from(digit));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_base32_as_rfc_4648_has_it() {
        assert_eq!(from_random(b"fooba"), "mzxw6ytb");
        assert_eq!(from_random(&[0; 5]), "aaaaaaaa");
        assert_eq!(from_random(&[255; 5]), "77777777");
        assert_eq!(
            from_random(b"\x00\x44\x32\x14\xc7\x42\x54\xb6\x35\xcf\x84\x65\x3a\x56\xd7\xc6\x75\xbe\x77\xdf"),
            "abcdefghijklmnopqrstuvwxyz234567",
            "every digit in order"
        );
    }

    #[test]
    fn every_one_of_the_160_bits_counts() {
        let bytes = usize::try_from(RANDOM_BYTES).expect("a small number");
        let zeros = from_random(&vec![0; bytes]);
        assert_eq!(zeros.len(), 32);
        for bit in 0..bytes * 8 {
            let mut random = vec![0; bytes];
            random[bit / 8] = 1 << (bit % 8);
            assert_ne!(from_random(&random), zeros, "bit {bit} makes no difference");
        }
    }
}
