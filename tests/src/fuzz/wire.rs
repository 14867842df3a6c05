//! What comes by TCP: the handshake, frames, and the messages in them.
use super::recoded;
use super::source::Source;
use bytes::{Bytes, BytesMut};
use dfs_core::net::ClusterKey;
use dfs_core::net::handshake::{Credentials, Purpose, accept, connect};
use dfs_core::types::{ClusterId, crc32c};
use dfs_core::wire::frame::{self, FRAME_MAX, Frame, FrameError, PREFIX};
use dfs_core::wire::{Envelope, Push, Request, Response};

/// What a reader has made of a stream: frames, bytes left, and why it gave up.
type Heard = (Vec<Frame>, usize, Option<FrameError>);

fn heard<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Heard {
    let (mut buf, mut frames, mut seen) = (BytesMut::new(), Vec::new(), 0);
    for piece in pieces {
        buf.extend_from_slice(piece);
        seen += piece.len();
        loop {
            match frame::decode(&mut buf) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, 0, Some(error)),
            }
        }
        assert!(
            buf.capacity() <= 2 * (FRAME_MAX + PREFIX) + 2 * seen,
            "one frame at most is waited for"
        );
    }
    (frames, buf.len(), None)
}

/// A stream gives the same frames however it is cut.
pub fn frame_reader(data: &[u8]) {
    let mut source = Source::new(data);
    let cuts: Vec<usize> = (0..4).map(|_| usize::from(source.byte())).collect();
    let stream = source.rest();
    let whole = heard(std::iter::once(stream));
    let (mut rest, mut pieces) = (stream, Vec::new());
    for cut in cuts {
        let (piece, behind) = rest.split_at(cut.min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces.push(rest);
    assert_eq!(whole, heard(pieces.into_iter()));
    let bytewise = stream.len() <= 512;
    assert!(!bytewise || whole == heard(stream.chunks(1)));
}

/// A frame with this header, whatever it is, and a right checksum.
#[must_use]
pub fn framed(header: &[u8], payload: &[u8]) -> Vec<u8> {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    let mut out = number(8 + header.len() + payload.len()).to_vec();
    out.extend(crc32c(header).to_le_bytes());
    out.extend(number(header.len()));
    out.extend(header);
    out.extend(payload);
    out
}

/// The header of a frame with payload: what decodes is sent again as the same message.
pub fn envelope(data: &[u8]) {
    let payload = &data[..data.len().min(3)];
    let mut buf = BytesMut::from(&framed(data, payload)[..]);
    let Ok(Some(first)) = frame::decode(&mut buf) else {
        return;
    };
    assert!(buf.is_empty() && first.payload == payload);
    let head = frame::encode_head(&first.envelope, payload.len());
    let mut buf = BytesMut::from(&head.expect("it is no longer than it was")[..]);
    buf.extend_from_slice(payload);
    let again = frame::decode(&mut buf).expect("our own frame is one");
    let payload = Bytes::copy_from_slice(payload);
    let Frame { envelope, .. } = first;
    assert_eq!(again, Some(Frame { envelope, payload }));
    recoded::<Envelope>(data);
}

/// What is asked of a daemon.
pub fn request(data: &[u8]) {
    recoded::<Request>(data);
}

/// What a daemon answers.
pub fn response(data: &[u8]) {
    recoded::<Response>(data);
}

/// What a master sends unasked.
pub fn push(data: &[u8]) {
    recoded::<Push>(data);
}

/// The first bytes of a connection, at both ends: nobody is let in who does not know the key.
pub fn handshake(data: &[u8]) {
    let mut source = Source::new(data);
    let (is_client, is_busy) = (source.is(), source.is());
    let key = ClusterKey::from_bytes([9; 32]);
    let cluster = ClusterId(u128::from(source.byte()));
    let mut stream = tokio::io::join(source.rest(), tokio::io::sink());
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime without drivers can always be made");
    let is_in = runtime.block_on(async {
        if is_client {
            let credentials = Credentials::new(key);
            connect(&mut stream, &credentials, Purpose::General)
                .await
                .is_ok()
        } else {
            accept(&mut stream, &key, cluster, is_busy).await.is_ok()
        }
    });
    assert!(!is_in, "the proof depends on a nonce drawn just now");
}
