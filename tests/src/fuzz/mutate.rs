//! Seeded mutations of kept inputs: what a fuzzer does, without its feedback.
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Longest input made.
const LEN_MAX: usize = 4096;

/// Bytes that decoders treat specially: ends of varints, of lengths, of text.
const SPECIAL: [&[u8]; 10] = [
    &[0],
    &[0xff],
    &[0x7f],
    &[0x80],
    &[0xff; 5],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    &[0; 8],
    b"\n",
    b"/../",
];

/// Some input of `corpus`, changed in up to six places.
pub fn mutated(corpus: &[Vec<u8>], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let any = |rng: &mut ChaCha8Rng| match corpus.len() {
        0 => Vec::new(),
        len => corpus[rng.random_range(0..len)].clone(),
    };
    let mut bytes = any(rng);
    for _ in 0..rng.random_range(1..=6) {
        let at = rng.random_range(0..=bytes.len());
        let end = bytes.len().min(at + rng.random_range(1..=16));
        match rng.random_range(0..9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = rng.random(),
            2 if at < bytes.len() => bytes[at] = bytes[at].wrapping_add(1),
            3 => drop(bytes.drain(at..end)),
            4 => bytes.truncate(at),
            5 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            6 => {
                let special = SPECIAL[rng.random_range(0..SPECIAL.len())];
                let end = if rng.random() { at } else { end };
                bytes.splice(at..end, special.iter().copied());
            }
            7 => {
                let other = any(rng);
                let from = rng.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend(&other[from..]);
            }
            _ => bytes.insert(at, rng.random()),
        }
        bytes.truncate(LEN_MAX);
    }
    bytes
}
