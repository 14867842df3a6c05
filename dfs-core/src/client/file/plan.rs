//! From where each byte of a read comes: committed content, local writes above it, or zeros.
use bytes::Bytes;

/// Where a span's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// The committed content.
    Base,
    /// Zeros (truncated away or punched locally).
    Zero,
    /// These bytes, written locally.
    Local(Bytes),
}

/// Bytes `from..to` of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub from: u64,
    pub to: u64,
    pub source: Source,
}

/// Spans that cover a range without gaps, ascending. Begins as all [`Source::Base`]; later layers
/// are painted over earlier ones.
#[derive(Debug)]
pub(super) struct Plan {
    pub spans: Vec<Span>,
}

impl Plan {
    pub fn new(from: u64, to: u64) -> Self {
        Self {
            spans: vec![Span {
                from,
                to,
                source: Source::Base,
            }],
        }
    }

    /// Zeros over `from..to`.
    pub fn zero(&mut self, from: u64, to: u64) {
        self.paint(from, to, |_, _| Source::Zero);
    }

    /// `bytes` at `offset`.
    pub fn local(&mut self, offset: u64, bytes: &Bytes) {
        let end = offset + bytes.len() as u64;
        self.paint(offset, end, |a, b| {
            Source::Local(bytes.slice((a - offset) as usize..(b - offset) as usize))
        });
    }

    fn paint(&mut self, from: u64, to: u64, source: impl Fn(u64, u64) -> Source) {
        let (Some(first), Some(last)) = (self.spans.first(), self.spans.last()) else {
            return;
        };
        let (from, to) = (from.max(first.from), to.min(last.to));
        if from >= to {
            return;
        }
        let mut out = Vec::with_capacity(self.spans.len() + 2);
        let mut painted = false;
        for span in self.spans.drain(..) {
            if span.to <= from || span.from >= to {
                if span.from >= to && !painted {
                    painted = true;
                    out.push(Span {
                        from,
                        to,
                        source: source(from, to),
                    });
                }
                out.push(span);
                continue;
            }
            if span.from < from {
                out.push(part(&span, span.from, from));
            }
            if !painted {
                painted = true;
                out.push(Span {
                    from,
                    to,
                    source: source(from, to),
                });
            }
            if span.to > to {
                out.push(part(&span, to, span.to));
            }
        }
        self.spans = out;
    }

    /// The range that the committed content must be read for; `None` if none.
    pub fn base_range(&self) -> Option<(u64, u64)> {
        let base = |s: &&Span| s.source == Source::Base;
        let first = self.spans.iter().find(base)?;
        let last = self.spans.iter().rfind(base)?;
        Some((first.from, last.to))
    }
}

fn part(span: &Span, from: u64, to: u64) -> Span {
    let source = match &span.source {
        Source::Local(b) => {
            Source::Local(b.slice((from - span.from) as usize..(to - span.from) as usize))
        }
        other => other.clone(),
    };
    Span { from, to, source }
}

/// `len` zeros in slices of one shared page.
pub(super) fn zeros(mut len: u64, out: &mut Vec<Bytes>) {
    static PAGE: [u8; 64 * 1024] = [0; 64 * 1024];
    while len > 0 {
        let now = len.min(PAGE.len() as u64);
        out.push(Bytes::from_static(&PAGE[..now as usize]));
        len -= now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};

    #[test]
    fn layers_painted_in_any_pattern_read_as_one_array_would() {
        for seed in 0..100u64 {
            let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
            let (mut plan, mut model) = (Plan::new(100, 200), vec![255u8; 300]);
            for n in 1..20u8 {
                let from = rng.random_range(50..240usize);
                let to = from + rng.random_range(0..60usize);
                if rng.random_bool(0.3) {
                    plan.zero(from as u64, to as u64);
                    model[from..to].fill(0);
                } else {
                    plan.local(from as u64, &Bytes::from(vec![n; to - from]));
                    model[from..to].fill(n);
                }
            }
            let mut at = 100;
            for span in &plan.spans {
                assert!(
                    span.from == at && span.to > at,
                    "seed {seed}: {:?}",
                    plan.spans
                );
                let expect = &model[span.from as usize..span.to as usize];
                let good = match &span.source {
                    Source::Base => expect.iter().all(|b| *b == 255),
                    Source::Zero => expect.iter().all(|b| *b == 0),
                    Source::Local(b) => b == expect,
                };
                assert!(good, "seed {seed}: {span:?}");
                at = span.to;
            }
            assert_eq!(at, 200);
        }
    }
}
