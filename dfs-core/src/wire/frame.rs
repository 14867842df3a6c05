//! Framing of [`Envelope`]s: lengths bounded, header checksummed, payload beside it.
use super::Envelope;
use crate::types::crc32c;
use bytes::{Bytes, BytesMut};

/// Longest frame body accepted, in bytes: a 4 MiB object with room for headers and batches.
pub const FRAME_MAX: usize = 20 << 20;
/// Longest header accepted, in bytes.
pub const HEADER_MAX: usize = 4 << 20;
/// Bytes of `len | header_crc | header_len`.
pub const PREFIX: usize = 12;

/// One message with its payload.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// The header.
    pub envelope: Envelope,
    /// Raw bytes that the header describes; may be empty.
    pub payload: Bytes,
}

/// Bytes that are no frame. The connection is closed: there is no way to find the next one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length is out of bounds.
    #[error("frame of {len} bytes with a header of {header_len} is out of bounds")]
    Bounds {
        /// Body length.
        len: usize,
        /// Header length.
        header_len: usize,
    },
    /// The header fails its checksum: damaged in transit, or not our protocol.
    #[error("frame header fails its checksum (damaged in transit, or not a DFS peer)")]
    HeaderChecksum,
    /// The header cannot be decoded.
    #[error("frame header cannot be decoded: {0}")]
    Decode(String),
    /// The message is too large to send.
    #[error("message of {0} bytes is too large to send")]
    TooLarge(usize),
}

impl Frame {
    /// A frame without payload.
    #[must_use]
    pub fn bare(envelope: Envelope) -> Self {
        Self {
            envelope,
            payload: Bytes::new(),
        }
    }
}

/// Prefix and header of a frame whose payload has `payload_len` bytes and is sent right after.
///
/// # Errors
/// [`FrameError::TooLarge`]; nothing was sent.
pub fn encode_head(envelope: &Envelope, payload_len: usize) -> Result<Vec<u8>, FrameError> {
    let mut head = vec![0u8; PREFIX];
    head = postcard::to_extend(envelope, head).map_err(|e| FrameError::Decode(e.to_string()))?;
    let header_len = head.len() - PREFIX;
    let len = 8 + header_len + payload_len;
    if len > FRAME_MAX || header_len > HEADER_MAX {
        return Err(FrameError::TooLarge(len));
    }
    let crc = crc32c(&head[PREFIX..]);
    head[0..4].copy_from_slice(&(len as u32).to_le_bytes());
    head[4..8].copy_from_slice(&crc.to_le_bytes());
    head[8..12].copy_from_slice(&(header_len as u32).to_le_bytes());
    Ok(head)
}

/// Takes one frame from the front of `buf`, or `None` until more bytes are there.
/// Afterwards `buf` begins with the next frame. The payload is a slice of `buf`, not a copy.
///
/// # Errors
/// [`FrameError`]; the connection must be closed.
pub fn decode(buf: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let word = |b: &[u8], at: usize| {
        u32::from_le_bytes(b[at..at + 4].try_into().expect("four bytes")) as usize
    };
    if buf.len() < PREFIX {
        return Ok(None);
    }
    let (len, header_len) = (word(buf, 0), word(buf, 8));
    if !(8..=FRAME_MAX).contains(&len) || header_len > HEADER_MAX || header_len + 8 > len {
        return Err(FrameError::Bounds { len, header_len });
    }
    if buf.len() < 4 + len {
        buf.reserve(4 + len - buf.len());
        return Ok(None);
    }
    let crc = word(buf, 4) as u32;
    let frame = buf.split_to(4 + len).freeze();
    let header = &frame[PREFIX..PREFIX + header_len];
    if crc32c(header) != crc {
        return Err(FrameError::HeaderChecksum);
    }
    let envelope = postcard::from_bytes(header).map_err(|e| FrameError::Decode(e.to_string()))?;
    Ok(Some(Frame {
        envelope,
        payload: frame.slice(PREFIX + header_len..),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{NodeRequest, Request};

    fn frame() -> BytesMut {
        let envelope = Envelope::Request {
            id: 7,
            body: Request::Node(NodeRequest::Ping),
        };
        let mut bytes = BytesMut::from(&encode_head(&envelope, 3).unwrap()[..]);
        bytes.extend_from_slice(b"abc");
        bytes
    }

    #[test]
    fn a_frame_survives_the_round_trip_in_pieces() {
        let whole = frame();
        for cut in 0..whole.len() {
            let mut buf = BytesMut::from(&whole[..cut]);
            assert_eq!(decode(&mut buf).unwrap(), None);
        }
        let mut buf = whole.clone();
        buf.extend_from_slice(b"next");
        let frame = decode(&mut buf).unwrap().unwrap();
        assert_eq!((&frame.payload[..], &buf[..]), (&b"abc"[..], &b"next"[..]));
    }

    #[test]
    fn any_flipped_bit_of_the_head_is_refused_or_waits() {
        let whole = frame();
        for bit in 0..(whole.len() - 3) * 8 {
            let mut buf = whole.clone();
            buf[bit / 8] ^= 1 << (bit % 8);
            if let Ok(Some(f)) = decode(&mut buf) {
                // Only a shorter length can still decode; the payload is then cut, not the header.
                assert_ne!(f.payload.len(), 3, "bit {bit}");
            }
        }
    }

    #[test]
    fn garbage_is_an_error_and_never_a_panic() {
        for seed in 0u8..255 {
            let mut buf = BytesMut::new();
            buf.extend((0..64u8).map(|i| i.wrapping_mul(31).wrapping_add(seed).rotate_left(3)));
            let _ = decode(&mut buf);
        }
    }
}
