//! Control messages: what the kernel says of a packet beside its bytes, and what it is told.

use crate::host_clock::nanos;

/// Bytes of control messages: a timestamp takes 64 on 64-bit Linux, an extended error with an IPv6 address 64 more.
pub(super) const CONTROL_BYTES: usize = 192;
/// `SCM_TS_OPT_ID`, from Linux 6.13: a datagram's own number for its transmit timestamp.
const SCM_TS_OPT_ID: libc::c_int = 81;

/// Room for control messages, aligned as they must be.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control(pub(super) [u8; CONTROL_BYTES]);

/// A control message that says which number the transmit timestamp shall carry.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct NumberMessage {
    header: libc::cmsghdr,
    number: u32,
    /// Control messages fill whole words.
    padding: u32,
}

impl NumberMessage {
    pub(super) fn new(number: u32) -> Self {
        // SAFETY: cmsghdr is a plain C struct for which all zeroes is a valid value.
        let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
        header.cmsg_len = (size_of::<libc::cmsghdr>() + size_of::<u32>()) as _;
        header.cmsg_level = libc::SOL_SOCKET;
        header.cmsg_type = SCM_TS_OPT_ID;
        NumberMessage { header, number, padding: 0 }
    }
}

/// Control messages that ask for a datagram's transmit timestamp, and its number.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct StampedMessage {
    header: libc::cmsghdr,
    flags: u32,
    /// Control messages fill whole words.
    padding: u32,
    number: NumberMessage,
}

impl StampedMessage {
    pub(super) fn new(number: u32) -> Self {
        // SAFETY: cmsghdr is a plain C struct for which all zeroes is a valid value.
        let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
        header.cmsg_len = (size_of::<libc::cmsghdr>() + size_of::<u32>()) as _;
        header.cmsg_level = libc::SOL_SOCKET;
        header.cmsg_type = libc::SO_TIMESTAMPING;
        let flags = libc::SOF_TIMESTAMPING_TX_SOFTWARE;
        StampedMessage { header, flags, padding: 0, number: NumberMessage::new(number) }
    }
}

/// Control messages that say when a datagram shall leave, and its number.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct TimedMessage {
    header: libc::cmsghdr,
    leave_at_monotonic_ns: u64,
    number: NumberMessage,
}

impl TimedMessage {
    pub(super) fn new(leave_at_monotonic_ns: i64, number: u32) -> Self {
        // SAFETY: cmsghdr is a plain C struct for which all zeroes is a valid value.
        let mut header: libc::cmsghdr = unsafe { std::mem::zeroed() };
        header.cmsg_len = (size_of::<libc::cmsghdr>() + size_of::<u64>()) as _;
        header.cmsg_level = libc::SOL_SOCKET;
        header.cmsg_type = libc::SCM_TXTIME;
        let leave_at_monotonic_ns = u64::try_from(leave_at_monotonic_ns).unwrap_or(0);
        TimedMessage { header, leave_at_monotonic_ns, number: NumberMessage::new(number) }
    }
}

/// What the control messages of a packet say.
pub(super) struct ControlMessages {
    pub(super) stamp_ns: Option<i64>,
    pub(super) number: Option<u32>,
}

pub(super) fn control_messages(header: &libc::msghdr) -> ControlMessages {
    let mut found = ControlMessages { stamp_ns: None, number: None };
    // SAFETY: `header` was filled by the kernel; its control buffer and length are the ones that it set.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: `message` points at a header within the control buffer, by CMSG_FIRSTHDR or CMSG_NXTHDR.
        let (level, kind, data) = unsafe { ((*message).cmsg_level, (*message).cmsg_type, libc::CMSG_DATA(message)) };
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPING) => {
                // SAFETY: SCM_TIMESTAMPING carries three timespecs; the first is the software one.
                let stamp = unsafe { data.cast::<libc::timespec>().read_unaligned() };
                found.stamp_ns = (stamp.tv_sec != 0).then(|| nanos(&stamp));
            }
            (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR) => {
                // SAFETY: IP_RECVERR and IPV6_RECVERR carry a sock_extended_err.
                let error = unsafe { data.cast::<libc::sock_extended_err>().read_unaligned() };
                found.number = (error.ee_origin == libc::SO_EE_ORIGIN_TIMESTAMPING).then_some(error.ee_data);
            }
            _ => {}
        }
        // SAFETY: as above.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    found
}
