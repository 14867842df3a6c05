//! Datagram payloads: one kind byte, then foca's packet or our own list of urgent updates.
//!
//! | kind | body |
//! |---|---|
//! | 1 | a packet of the SWIM machine: header, updates |
//! | 2 | urgent updates: 1 to 16 members, each as in a packet |
//! | 3 | a look: a number of 8 bytes, the asker's id; answered at once |
//! | 4 | the answer: the number |
//!
//! Kinds 1 and 2 are postcard. The destination is sent as (id, incarnation) only, since its receiver
//! compares it and nothing else; a destination with id 0 means "whoever has this address", which is
//! how a node joins that knows addresses but not ids.
use super::super::identity::{NodeIdentity, Zone};
use crate::types::{Incarnation, NodeId, StoreId};
use bytes::{Buf, BufMut};
use foca::{Header, Member, Message, State};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, SocketAddr};

/// Kind byte of a packet of the SWIM machine.
pub(super) const KIND_SWIM: u8 = 1;
/// Kind byte of urgent updates.
pub(super) const KIND_URGENT: u8 = 2;
/// Kind byte of a look.
pub(super) const KIND_LOOK: u8 = 3;
/// Kind byte of the answer to a look.
pub(super) const KIND_SEEN: u8 = 4;
/// Most urgent updates of one datagram.
pub(super) const URGENT_MAX: usize = 16;
/// The incarnation (of foca) that turns Down into a goodbye. Never reached otherwise: foca takes
/// a new identity before.
pub(super) const GOODBYE: u16 = u16::MAX;

/// Longest encoded header or member.
const ENCODED_MAX: usize = 512;

/// A node as foca sees it: equal iff id and incarnation are.
#[derive(Debug, Clone)]
pub(super) struct SwimId(pub(super) NodeIdentity);

impl SwimId {
    /// Whoever listens at `gossip`.
    pub(super) fn anyone_at(gossip: SocketAddr) -> Self {
        Self::bare(NodeId(0), Incarnation(0), gossip)
    }

    /// Enough to be compared.
    pub(super) fn bare(id: NodeId, incarnation: Incarnation, gossip: SocketAddr) -> Self {
        Self(NodeIdentity {
            id,
            incarnation,
            gossip,
            tcp: gossip,
            store: StoreId(0),
            zone: Zone::default(),
        })
    }
}

impl PartialEq for SwimId {
    fn eq(&self, other: &Self) -> bool {
        (self.0.id, self.0.incarnation) == (other.0.id, other.0.incarnation)
    }
}

impl Eq for SwimId {}

impl foca::Identity for SwimId {
    type Addr = NodeId;

    /// The next incarnation, for coming back after having been declared down.
    fn renew(&self) -> Option<Self> {
        let mut next = self.0.clone();
        next.incarnation = Incarnation(next.incarnation.0.checked_add(1)?);
        Some(Self(next))
    }

    fn addr(&self) -> NodeId {
        self.0.id
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.0.incarnation > adversary.0.incarnation
    }
}

/// Why bytes are no payload of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    /// Postcard did not accept them.
    #[error("malformed payload")]
    Malformed,
    /// No room left in the datagram.
    #[error("datagram is full")]
    Full,
}

#[derive(Serialize, Deserialize)]
struct WireId {
    id: [u8; 16],
    incarnation: u64,
    gossip: SocketAddr,
    tcp: SocketAddr,
    store: [u8; 16],
    zone: Zone,
}

impl WireId {
    fn from_id(SwimId(id): &SwimId) -> Self {
        Self {
            id: id.id.0.to_be_bytes(),
            incarnation: id.incarnation.0,
            gossip: id.gossip,
            tcp: id.tcp,
            store: id.store.0.to_be_bytes(),
            zone: id.zone.clone(),
        }
    }

    fn into_id(self) -> Result<SwimId, CodecError> {
        if self.gossip.ip().is_unspecified() || self.gossip.port() == 0 || self.id == [0; 16] {
            return Err(CodecError::Malformed);
        }
        Ok(SwimId(NodeIdentity {
            id: NodeId(u128::from_be_bytes(self.id)),
            incarnation: Incarnation(self.incarnation),
            gossip: self.gossip,
            tcp: self.tcp,
            store: StoreId(u128::from_be_bytes(self.store)),
            zone: self.zone,
        }))
    }
}

#[derive(Serialize, Deserialize)]
enum WireMessage {
    Ping(u8),
    Ack(u8),
    PingReq(WireId, u8),
    IndirectPing(WireId, u8),
    IndirectAck(WireId, u8),
    ForwardedAck(WireId, u8),
    Announce,
    Feed,
    Gossip,
    Broadcast,
    TurnUndead,
}

impl WireMessage {
    fn from_message(message: &Message<SwimId>) -> Self {
        match message {
            Message::Ping(n) => Self::Ping(*n),
            Message::Ack(n) => Self::Ack(*n),
            Message::PingReq {
                target,
                probe_number,
            } => Self::PingReq(WireId::from_id(target), *probe_number),
            Message::IndirectPing {
                origin,
                probe_number,
            } => Self::IndirectPing(WireId::from_id(origin), *probe_number),
            Message::IndirectAck {
                target,
                probe_number,
            } => Self::IndirectAck(WireId::from_id(target), *probe_number),
            Message::ForwardedAck {
                origin,
                probe_number,
            } => Self::ForwardedAck(WireId::from_id(origin), *probe_number),
            Message::Announce => Self::Announce,
            Message::Feed => Self::Feed,
            Message::Gossip => Self::Gossip,
            Message::Broadcast => Self::Broadcast,
            Message::TurnUndead => Self::TurnUndead,
        }
    }

    fn into_message(self) -> Result<Message<SwimId>, CodecError> {
        Ok(match self {
            Self::Ping(n) => Message::Ping(n),
            Self::Ack(n) => Message::Ack(n),
            Self::PingReq(id, probe_number) => Message::PingReq {
                target: id.into_id()?,
                probe_number,
            },
            Self::IndirectPing(id, probe_number) => Message::IndirectPing {
                origin: id.into_id()?,
                probe_number,
            },
            Self::IndirectAck(id, probe_number) => Message::IndirectAck {
                target: id.into_id()?,
                probe_number,
            },
            Self::ForwardedAck(id, probe_number) => Message::ForwardedAck {
                origin: id.into_id()?,
                probe_number,
            },
            Self::Announce => Message::Announce,
            Self::Feed => Message::Feed,
            Self::Gossip => Message::Gossip,
            Self::Broadcast => Message::Broadcast,
            Self::TurnUndead => Message::TurnUndead,
        })
    }
}

#[derive(Serialize, Deserialize)]
struct WireHeader {
    src: WireId,
    src_incarnation: u16,
    dst: [u8; 16],
    dst_incarnation: u64,
    message: WireMessage,
}

#[derive(Serialize, Deserialize)]
struct WireMember {
    id: WireId,
    incarnation: u16,
    state: u8,
}

/// Foca's codec on our wire format.
#[derive(Debug)]
pub(super) struct SwimCodec {
    /// This node, to recognise a destination of "whoever has this address".
    pub(super) me: NodeId,
}

impl foca::Codec<SwimId> for SwimCodec {
    type Error = CodecError;

    fn encode_header(
        &mut self,
        header: &Header<SwimId>,
        buf: impl BufMut,
    ) -> Result<(), CodecError> {
        let wire = WireHeader {
            src: WireId::from_id(&header.src),
            src_incarnation: header.src_incarnation,
            dst: header.dst.0.id.0.to_be_bytes(),
            dst_incarnation: header.dst.0.incarnation.0,
            message: WireMessage::from_message(&header.message),
        };
        put(&wire, buf)
    }

    fn decode_header(&mut self, buf: impl Buf) -> Result<Header<SwimId>, CodecError> {
        let wire: WireHeader = take(buf)?;
        let dst = match NodeId(u128::from_be_bytes(wire.dst)) {
            NodeId(0) => self.me,
            id => id,
        };
        // Only compared with ourselves, never sent to.
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Ok(Header {
            src: wire.src.into_id()?,
            src_incarnation: wire.src_incarnation,
            dst: SwimId::bare(dst, Incarnation(wire.dst_incarnation), nowhere),
            message: wire.message.into_message()?,
        })
    }

    fn encode_member(
        &mut self,
        member: &Member<SwimId>,
        buf: impl BufMut,
    ) -> Result<(), CodecError> {
        put_member(member, buf)
    }

    fn decode_member(&mut self, buf: impl Buf) -> Result<Member<SwimId>, CodecError> {
        take_member(buf)
    }
}

fn put_member(member: &Member<SwimId>, buf: impl BufMut) -> Result<(), CodecError> {
    let wire = WireMember {
        id: WireId::from_id(member.id()),
        incarnation: member.incarnation(),
        state: match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        },
    };
    put(&wire, buf)
}

fn take_member(buf: impl Buf) -> Result<Member<SwimId>, CodecError> {
    let wire: WireMember = take(buf)?;
    let state = match wire.state {
        0 => State::Alive,
        1 => State::Suspect,
        2 => State::Down,
        _ => return Err(CodecError::Malformed),
    };
    Ok(Member::new(wire.id.into_id()?, wire.incarnation, state))
}

/// Payload of kind 2. At most [`URGENT_MAX`] updates are taken.
pub(super) fn encode_urgent(updates: &[Member<SwimId>]) -> Vec<u8> {
    let mut payload = vec![KIND_URGENT];
    for update in updates.iter().take(URGENT_MAX) {
        // A vector grows, so only an oversized identity could fail; its label is bounded.
        put_member(update, &mut payload).expect("a member fits ENCODED_MAX");
    }
    payload
}

/// The updates of a payload of kind 2, without its kind byte.
pub(super) fn decode_urgent(mut body: &[u8]) -> Result<Vec<Member<SwimId>>, CodecError> {
    let mut updates = Vec::new();
    while !body.is_empty() {
        if updates.len() == URGENT_MAX {
            return Err(CodecError::Malformed);
        }
        updates.push(take_member(&mut body)?);
    }
    Ok(updates)
}

fn put(value: &impl Serialize, mut buf: impl BufMut) -> Result<(), CodecError> {
    let mut space = [0; ENCODED_MAX];
    let bytes = postcard::to_slice(value, &mut space).map_err(|_| CodecError::Full)?;
    if buf.remaining_mut() < bytes.len() {
        return Err(CodecError::Full);
    }
    buf.put_slice(bytes);
    Ok(())
}

fn take<T: for<'de> Deserialize<'de>>(mut buf: impl Buf) -> Result<T, CodecError> {
    // Contiguous by foca's contract: the payload is one slice.
    let chunk = buf.chunk();
    let (value, rest) = postcard::take_from_bytes(chunk).map_err(|_| CodecError::Malformed)?;
    let used = chunk.len() - rest.len();
    buf.advance(used);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use foca::Codec;

    fn node(id: u128) -> SwimId {
        SwimId(NodeIdentity {
            id: NodeId(id),
            incarnation: Incarnation(1_700_000_000_000),
            gossip: "10.0.0.1:7000".parse().unwrap(),
            tcp: "[fd00::1]:7001".parse().unwrap(),
            store: StoreId(u128::MAX),
            zone: Zone::new("z".repeat(32)).unwrap(),
        })
    }

    #[test]
    fn headers_and_members_come_back_as_sent() {
        let mut codec = SwimCodec { me: NodeId(2) };
        let header = Header {
            src: node(1),
            src_incarnation: 3,
            dst: node(2),
            message: Message::PingReq {
                target: node(4),
                probe_number: 200,
            },
        };
        let mut bytes = Vec::new();
        codec.encode_header(&header, &mut bytes).unwrap();
        let member = Member::new(node(5), GOODBYE, State::Down);
        codec.encode_member(&member, &mut bytes).unwrap();
        let mut rest = bytes.as_slice();
        let back = codec.decode_header(&mut rest).unwrap();
        assert_eq!(back, header);
        assert_eq!(back.src.0, header.src.0, "every field");
        assert_eq!(codec.decode_member(&mut rest).unwrap(), member);
        assert!(rest.is_empty());
        assert_eq!(
            decode_urgent(&encode_urgent(std::slice::from_ref(&member))[1..]),
            Ok(vec![member])
        );
    }

    #[test]
    fn a_destination_without_id_is_whoever_reads_it() {
        let mut codec = SwimCodec { me: NodeId(2) };
        let header = Header {
            src: node(1),
            src_incarnation: 0,
            dst: SwimId::anyone_at("10.0.0.9:7".parse().unwrap()),
            message: Message::Announce,
        };
        let mut bytes = Vec::new();
        codec.encode_header(&header, &mut bytes).unwrap();
        let back = codec.decode_header(bytes.as_slice()).unwrap();
        assert_eq!(back.dst.0.id, NodeId(2));
    }

    #[test]
    fn truncated_and_unspecified_addresses_are_malformed() {
        let mut bytes = Vec::new();
        put_member(&Member::alive(node(5)), &mut bytes).unwrap();
        for len in 0..bytes.len() {
            assert!(take_member(&bytes[..len]).is_err(), "length {len}");
        }
        let mut bad = node(5);
        bad.0.gossip = "0.0.0.0:7000".parse().unwrap();
        bytes.clear();
        put_member(&Member::alive(bad), &mut bytes).unwrap();
        assert_eq!(take_member(bytes.as_slice()), Err(CodecError::Malformed));
    }
}
