//! Bytes as a source of decisions: small numbers, edges of ranges, pieces. Endless: zeros follow.

/// See the [module docs](self).
#[derive(Debug, Clone)]
pub struct Source<'a> {
    rest: &'a [u8],
}

/// Numbers at which arithmetic goes wrong.
const EDGES: [u64; 14] = [
    0,
    1,
    u64::MAX,
    u64::MAX - 1,
    1 << 63,
    (1 << 63) - 1,
    1 << 62,
    u32::MAX as u64,
    1 << 32,
    1 << 31,
    4 << 20,
    (4 << 20) - 1,
    u16::MAX as u64,
    1_000_000_000,
];

impl<'a> Source<'a> {
    /// Over these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All that is left.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else {
            return 0;
        };
        self.rest = rest;
        *first
    }

    /// A number below `n`, which is above 0.
    pub fn below(&mut self, n: u8) -> u8 {
        self.byte() % n
    }

    /// One of two.
    pub fn is(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Mostly a small number, else one at the edge of a range, or any.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
            at @ 240..=254 => EDGES[usize::from(at - 240) % EDGES.len()],
            small => u64::from(small % 16),
        }
    }

    /// The same, cut to 32 bits.
    pub fn short(&mut self) -> u32 {
        self.number() as u32
    }

    /// The next piece, with its length before it in two bytes.
    pub fn piece(&mut self) -> &'a [u8] {
        let len = usize::from(u16::from_le_bytes([self.byte(), self.byte()]));
        let (piece, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        piece
    }

    /// A few bytes.
    pub fn few(&mut self) -> &'a [u8] {
        let len = usize::from(self.below(16));
        let (few, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        few
    }

    /// Up to three of something.
    pub fn some<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(4)).map(|_| one(self)).collect()
    }

    /// Perhaps something.
    pub fn perhaps<T>(&mut self, one: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.is().then(|| one(self))
    }

    /// Moves past `n` bytes.
    pub fn skip(&mut self, n: usize) {
        self.rest = self.rest.get(n..).unwrap_or_default();
    }
}

/// Pieces as [`Source::piece`] reads them.
#[must_use]
pub fn joined<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in pieces {
        let len = u16::try_from(piece.len()).unwrap_or(u16::MAX);
        out.extend(len.to_le_bytes());
        out.extend(&piece[..usize::from(len)]);
    }
    out
}
