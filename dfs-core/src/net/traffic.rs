//! Which class of traffic a message counts as.
use crate::membership::bandwidth::TrafficClass;
use crate::wire::{Envelope, ReplicaRequest, ReplicaResponse, Request, Response};

/// The class of a message on a connection; what carries object bytes is data, or repair when the
/// connection was opened for copies between stores.
#[must_use]
pub fn class_of(envelope: &Envelope, repair: bool) -> TrafficClass {
    let carries_bytes = match envelope {
        Envelope::Request { body, .. } | Envelope::Cast(body) => matches!(
            body,
            Request::Replica(ReplicaRequest::Prepare { .. } | ReplicaRequest::Read { .. })
        ),
        Envelope::Reply { body, .. } => matches!(
            body,
            Ok(Response::Replica(
                ReplicaResponse::Prepared { .. } | ReplicaResponse::Read { .. }
            ))
        ),
        Envelope::Push(_) => false,
    };
    match (repair, carries_bytes) {
        (true, _) => TrafficClass::Repair,
        (false, true) => TrafficClass::Data,
        (false, false) => TrafficClass::Metadata,
    }
}
