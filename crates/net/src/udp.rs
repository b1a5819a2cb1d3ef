//! UDP in batches, with the kernel's timestamps.
//!
//! Sockets are never connected and ignore ICMP: the losers of a race cause many port-unreachables, and a connected
//! socket would lose sends to them. The kernel's path-MTU discovery is off: our datagrams are small, and ICMP about an
//! answer goes to the service address's owner, not to the agent that sent it. Where fragments are unwanted anyway, packets
//! say so (`PROBE` instead of `OMIT`), and need no identification then, which takes the kernel 4 % of a DNS answer's time.

mod address;
mod control;
mod steering;

use crate::host_clock::{HostClock, Sandwich};
use crate::{check, set_option};
use address::RawAddress;
use control::{CONTROL_BYTES, Control, NumberMessage, StampedMessage, TimedMessage, control_messages};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use startgun_core::time::LocalTime;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
pub(crate) use steering::op;
pub use steering::shard_of_source;

/// Bytes kept of a packet: more than any datagram that is not refused anyway.
const PACKET_BYTES: usize = 2_048;
/// Timestamps taken from the error queue in one call.
pub(crate) const STAMPS_PER_DRAIN: usize = 256;
/// Messages of one `sendmmsg`.
pub const SEND_BATCH: usize = 64;

/// What `SO_MEMINFO` tells: the last figure counts drops (`SK_MEMINFO_DROPS` in linux/sock_diag.h).
const MEMORY_FIGURES: usize = 9;

/// How a socket is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Several sockets on one address (`SO_REUSEPORT`).
    pub reuse_port: bool,
    /// The address may be somebody else's (`IP_TRANSPARENT`), where it is not local anyway.
    pub transparent: bool,
    /// Stamp packets when they arrive.
    pub receive_timestamps: bool,
    /// Stamp packets when they leave, see [`UdpSocket::drain_transmit_timestamps`].
    pub transmit_timestamps: bool,
    /// With [`Options::transmit_timestamps`]: only those of [`UdpSocket::send_stamped_to`]. Stamps that nobody takes fill the
    /// receive buffer, from which they are paid for.
    pub stamps_on_request: bool,
    /// Packets must not be fragmented on their way, as RFC 9715 section 3.1 asks of DNS servers.
    pub dont_fragment: bool,
    /// Datagrams may say when they leave (`SO_TXTIME` on `CLOCK_MONOTONIC`), see [`UdpSocket::send_at`].
    pub departure_times: bool,
    /// The kernel's receive buffer, in bytes: 4 MiB are 5,000 small packets.
    pub receive_buffer_bytes: usize,
    /// The kernel's send buffer, in bytes.
    pub send_buffer_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            reuse_port: false,
            transparent: false,
            receive_timestamps: false,
            transmit_timestamps: false,
            stamps_on_request: false,
            dont_fragment: false,
            departure_times: false,
            receive_buffer_bytes: 4 << 20,
            send_buffer_bytes: 4 << 20,
        }
    }
}

/// A UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    socket: Socket,
    address: SocketAddr,
    /// The number of the next datagram; `None` without transmit timestamps.
    next_number: Option<AtomicU32>,
    /// Whether each datagram carries its number to the kernel, see [`numbers_travel`].
    numbered: bool,
    /// Whether only [`UdpSocket::send_stamped_to`] numbers and stamps.
    on_request: bool,
    /// What it asks of transmit timestamps.
    transmit_flags: libc::c_uint,
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A packet of a [`ReceiveBatch`].
#[derive(Debug)]
pub struct Received<'a> {
    /// Who sent it.
    pub source: SocketAddr,
    /// When it arrived.
    pub received_at: LocalTime,
    /// Whether the kernel said so; otherwise it is when the program got it.
    pub kernel_stamped: bool,
    /// What it holds.
    pub bytes: &'a [u8],
    /// Whether it was longer than that.
    pub truncated: bool,
}

struct Slot {
    bytes: Box<[u8; PACKET_BYTES]>,
    source: RawAddress,
    control: Control,
    length: usize,
    truncated: bool,
    peer: Option<SocketAddr>,
    received_at: LocalTime,
    kernel_stamped: bool,
}

/// Room for the packets of one call; allocated once.
pub struct ReceiveBatch {
    slots: Vec<Slot>,
    received: usize,
}

impl std::fmt::Debug for ReceiveBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReceiveBatch({} of {})", self.received, self.slots.len())
    }
}

impl ReceiveBatch {
    /// Room for `packets` packets.
    pub fn new(packets: usize) -> Self {
        let slot = || Slot {
            bytes: Box::new([0; PACKET_BYTES]),
            source: RawAddress::zeroed(),
            control: Control([0; CONTROL_BYTES]),
            length: 0,
            truncated: false,
            peer: None,
            received_at: LocalTime::from_nanos(0),
            kernel_stamped: false,
        };
        ReceiveBatch { slots: (0..packets).map(|_| slot()).collect(), received: 0 }
    }

    /// The packets of the last call, in the order of their arrival.
    pub fn iter(&self) -> impl Iterator<Item = Received<'_>> {
        self.slots[..self.received].iter().filter_map(|slot| {
            Some(Received {
                source: slot.peer?,
                received_at: slot.received_at,
                kernel_stamped: slot.kernel_stamped,
                bytes: &slot.bytes[..slot.length],
                truncated: slot.truncated,
            })
        })
    }
}

/// A datagram to be sent, and what became of it.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// Where to.
    pub to: SocketAddr,
    /// What.
    pub bytes: &'a [u8],
    /// After the call: the number by which the datagram's transmit timestamp will be known (0 without transmit
    /// timestamps; not necessarily the previous one's successor), or the kernel's error.
    pub outcome: Result<u32, i32>,
}

impl UdpSocket {
    /// Binds a socket.
    ///
    /// # Errors
    /// As for `bind(2)`. For an address that is not local and `transparent`, permission denied means that CAP_NET_RAW
    /// or CAP_NET_ADMIN is missing during set-up; the message says so.
    pub fn bind(address: SocketAddr, options: Options) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if options.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
            let mode = if options.dont_fragment { libc::IPV6_PMTUDISC_PROBE } else { libc::IPV6_PMTUDISC_OMIT };
            set_option(socket.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, mode)?;
        } else {
            let mode = if options.dont_fragment { libc::IP_PMTUDISC_PROBE } else { libc::IP_PMTUDISC_OMIT };
            set_option(socket.as_fd(), libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, mode)?;
        }
        // The kernel cuts these down to its own maximum; that is not an error.
        for (bytes, force, plain) in [
            (options.receive_buffer_bytes, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
            (options.send_buffer_bytes, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
        ] {
            let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
            // The first form goes beyond that maximum (200 KiB by default), with CAP_NET_ADMIN on the host itself.
            if set_option(socket.as_fd(), libc::SOL_SOCKET, force, bytes).is_err() {
                let _ = set_option(socket.as_fd(), libc::SOL_SOCKET, plain, bytes);
            }
        }
        match socket.bind(&SockAddr::from(address)) {
            Err(error) if options.transparent && error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {
                bind_transparent(&socket, address)?;
            }
            other => other?,
        }
        let transmit_flags = transmit_flags(&options);
        let receive_flags = if options.receive_timestamps { RECEIVE_STAMPS } else { 0 };
        if transmit_flags | receive_flags != 0 {
            set_timestamping(&socket, transmit_flags | receive_flags)?;
        }
        if options.departure_times {
            let times = libc::sock_txtime { clockid: libc::CLOCK_MONOTONIC, flags: 0 };
            set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_TXTIME, times)?;
        }
        let address = socket.local_addr()?.as_socket().unwrap_or(address);
        let next_number = options.transmit_timestamps.then(|| AtomicU32::new(0));
        let numbered = options.transmit_timestamps && numbers_travel();
        let on_request = options.stamps_on_request;
        Ok(UdpSocket { socket, address, next_number, numbered, on_request, transmit_flags })
    }

    /// From now on the kernel stamps packets when they arrive, or no longer ([`Options::receive_timestamps`]): a stamp takes it
    /// 4 % of a DNS answer's time.
    ///
    /// # Errors
    /// The kernel's.
    pub fn stamp_arrivals(&self, wanted: bool) -> io::Result<()> {
        set_timestamping(&self.socket, self.transmit_flags | if wanted { RECEIVE_STAMPS } else { 0 })
    }

    /// Whether the kernel stamps what this socket sends, so that [`UdpSocket::drain_transmit_timestamps`] has something.
    pub fn stamps_departures(&self) -> bool {
        self.next_number.is_some()
    }

    /// Packets that the kernel dropped because nobody took them from this socket in time, since it was made; 0 where it
    /// does not tell.
    pub fn dropped(&self) -> u32 {
        let mut figures = [0u32; MEMORY_FIGURES];
        let mut length = size_of_val(&figures) as libc::socklen_t;
        // SAFETY: `figures` has room for `length` bytes, and the kernel writes no more than that.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                figures.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if check(result).is_ok() { figures[MEMORY_FIGURES - 1] } else { 0 }
    }

    /// The address that it is bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes what has arrived, up to the batch's size; 0 when nothing has.
    ///
    /// # Errors
    /// The kernel's, other than "nothing there" and what ICMP caused.
    pub fn receive(&self, batch: &mut ReceiveBatch, clock: &HostClock) -> io::Result<usize> {
        batch.received = 0;
        let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; SEND_BATCH];
        // SAFETY: an all-zero mmsghdr is a valid value: null pointers and zero lengths.
        let mut headers: [libc::mmsghdr; SEND_BATCH] = unsafe { std::mem::zeroed() };
        let count = batch.slots.len().min(SEND_BATCH);
        for ((slot, vector), header) in batch.slots.iter_mut().zip(&mut vectors).zip(&mut headers) {
            vector.iov_base = slot.bytes.as_mut_ptr().cast();
            vector.iov_len = PACKET_BYTES;
            header.msg_hdr.msg_name = (&raw mut slot.source).cast();
            header.msg_hdr.msg_namelen = RawAddress::ROOM;
            header.msg_hdr.msg_iov = &raw mut *vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = slot.control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_BYTES;
        }
        // SAFETY: every header points at buffers of `batch` and at `vectors`, which outlive the call and are named with
        // their true lengths; `count` headers are set up.
        let result = unsafe {
            libc::recvmmsg(self.socket.as_raw_fd(), headers.as_mut_ptr(), count as u32, 0, std::ptr::null_mut())
        };
        let received = match check(result) {
            Ok(received) => received as usize,
            Err(error) if is_passing(&error) => return Ok(0),
            Err(error) => return Err(error),
        };
        // Once for all of them, when they are needed: newer than every stamp, and when the program got those without.
        let (mut sandwich, mut unstamped) = (None, None);
        for (slot, header) in batch.slots.iter_mut().zip(&headers).take(received) {
            slot.length = (header.msg_len as usize).min(PACKET_BYTES);
            slot.truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            slot.peer = (header.msg_hdr.msg_namelen > 0).then(|| slot.source.socket_addr()).flatten();
            let mut convert = |stamp| clock.stamped_before(stamp, *sandwich.get_or_insert_with(Sandwich::take));
            let stamp = control_messages(&header.msg_hdr).stamp_ns.and_then(&mut convert);
            slot.kernel_stamped = stamp.is_some();
            slot.received_at =
                stamp.map_or_else(|| *unstamped.get_or_insert_with(|| clock.now()), |stamped| stamped.at);
        }
        batch.received = received;
        Ok(received)
    }

    /// Sends one datagram now. `Some` is the number by which its transmit timestamp will be known.
    ///
    /// # Errors
    /// The kernel's; a full buffer is one.
    pub fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<Option<u32>> {
        let mut message = [Outgoing { to, bytes, outcome: Err(0) }];
        self.send_batch(&mut message);
        let [Outgoing { outcome, .. }] = message;
        outcome.map(|number| self.next_number.is_some().then_some(number)).map_err(io::Error::from_raw_os_error)
    }

    /// Sends one datagram now, whose transmit timestamp is wanted; the number by which it will be known. For a socket with
    /// [`Options::stamps_on_request`].
    ///
    /// # Errors
    /// The kernel's; a full buffer is one.
    pub fn send_stamped_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<u32> {
        let next_number = || self.next_number.as_ref().map_or(0, |next| next.fetch_add(1, Ordering::Relaxed));
        // Before or after the call, as in `send_chunk`.
        let number = self.numbered.then(next_number);
        let (mut to, to_length) = RawAddress::of(to);
        let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut control = StampedMessage::new(number.unwrap_or(0));
        // SAFETY: an all-zero msghdr is a valid value: null pointers and zero lengths.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_name = (&raw mut to).cast();
        header.msg_namelen = to_length;
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut control).cast();
        // The number, where it travels, comes last.
        let unused = if self.numbered { 0 } else { size_of::<NumberMessage>() };
        header.msg_controllen = (size_of::<StampedMessage>() - unused) as _;
        // SAFETY: the header points at address, bytes and control messages that outlive the call, with their true lengths.
        check(unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const header, 0) } as libc::c_int)?;
        Ok(number.unwrap_or_else(next_number))
    }

    /// Hands one datagram to the kernel, to leave when `CLOCK_MONOTONIC` shows `leave_at_monotonic_ns`. Most interfaces ignore
    /// that and let it leave at once; see [`crate::departure::probe`]. `Some` as of [`UdpSocket::send_to`].
    ///
    /// # Errors
    /// The kernel's; `EINVAL` without [`Options::departure_times`].
    pub fn send_at(&self, bytes: &[u8], to: SocketAddr, leave_at_monotonic_ns: i64) -> io::Result<Option<u32>> {
        let next_number = || self.next_number.as_ref().map(|next| next.fetch_add(1, Ordering::Relaxed));
        // Before or after the call, as in `send_chunk`.
        let number = if self.numbered { next_number() } else { None };
        let (mut to, to_length) = RawAddress::of(to);
        let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut control = TimedMessage::new(leave_at_monotonic_ns, number.unwrap_or(0));
        // SAFETY: an all-zero msghdr is a valid value: null pointers and zero lengths.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_name = (&raw mut to).cast();
        header.msg_namelen = to_length;
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut control).cast();
        // The number, where it travels, comes last.
        let unused = if self.numbered { 0 } else { size_of::<NumberMessage>() };
        header.msg_controllen = (size_of::<TimedMessage>() - unused) as _;
        // SAFETY: the header points at address, bytes and control messages that outlive the call, with their true lengths.
        check(unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const header, 0) } as libc::c_int)?;
        Ok(number.or_else(next_number))
    }

    /// Lets what this socket sends die at the next hop (TTL or hop limit 1).
    ///
    /// # Errors
    /// The kernel's.
    pub fn stay_on_link(&self) -> io::Result<()> {
        match self.address {
            SocketAddr::V4(_) => self.socket.set_ttl_v4(1),
            SocketAddr::V6(_) => self.socket.set_unicast_hops_v6(1),
        }
    }

    /// Sends datagrams with as few calls as possible and notes each one's outcome.
    pub fn send_batch(&self, messages: &mut [Outgoing<'_>]) {
        self.send_batch_when(messages, || true);
    }

    /// Prepares the first call, asks `ready` just before it, and goes on only if that says so. `false` when it did not:
    /// nothing was sent then, and no outcome noted.
    pub fn send_batch_when(&self, messages: &mut [Outgoing<'_>], ready: impl FnOnce() -> bool) -> bool {
        let mut ready = Some(ready);
        for chunk in messages.chunks_mut(SEND_BATCH) {
            let mut start = 0;
            while start < chunk.len() {
                match self.send_chunk(&mut chunk[start..], || ready.take().is_none_or(|ready| ready())) {
                    Some(dealt_with) => start += dealt_with,
                    None => return false,
                }
            }
        }
        true
    }

    /// Sends the chunk up to the first refusal, which it notes too; how many were dealt with, at least one. `None` when it
    /// is not `ready`.
    fn send_chunk(&self, chunk: &mut [Outgoing<'_>], ready: impl FnOnce() -> bool) -> Option<usize> {
        let mut vectors = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; SEND_BATCH];
        // SAFETY: an all-zero mmsghdr is a valid value: null pointers and zero lengths.
        let mut headers: [libc::mmsghdr; SEND_BATCH] = unsafe { std::mem::zeroed() };
        let mut addresses = [RawAddress::zeroed(); SEND_BATCH];
        let mut numbers = [NumberMessage::new(0); SEND_BATCH];
        // Taken before the call, so that two threads never share one; what a refusal leaves unused is skipped.
        let numbered = self.numbered && !self.on_request;
        let first = match &self.next_number {
            Some(next) if numbered => next.fetch_add(chunk.len() as u32, Ordering::Relaxed),
            _ => 0,
        };
        for ((((message, vector), header), address), number) in
            chunk.iter().zip(&mut vectors).zip(&mut headers).zip(&mut addresses).zip(first..)
        {
            (*address, header.msg_hdr.msg_namelen) = RawAddress::of(message.to);
            vector.iov_base = message.bytes.as_ptr().cast_mut().cast();
            vector.iov_len = message.bytes.len();
            header.msg_hdr.msg_name = (&raw mut *address).cast();
            header.msg_hdr.msg_iov = &raw mut *vector;
            header.msg_hdr.msg_iovlen = 1;
            let control = &mut numbers[number.wrapping_sub(first) as usize];
            if numbered {
                *control = NumberMessage::new(number);
                header.msg_hdr.msg_control = (&raw mut *control).cast();
                header.msg_hdr.msg_controllen = size_of::<NumberMessage>() as _;
            }
        }
        if !ready() {
            return None;
        }
        let mut tries = 0;
        let sent = loop {
            // SAFETY: `chunk.len()` (at most SEND_BATCH) headers point at addresses, vectors, control messages and bytes
            // that outlive the call; sendmmsg only reads what they point at.
            let result =
                unsafe { libc::sendmmsg(self.socket.as_raw_fd(), headers.as_mut_ptr(), chunk.len() as u32, 0) };
            match check(result) {
                Ok(sent) => break Ok(sent as usize),
                // ICMP about an earlier datagram, or a signal: the send itself was not tried.
                Err(error) if tries < 3 && is_passing(&error) && error.kind() != io::ErrorKind::WouldBlock => {
                    tries += 1
                }
                Err(error) => break Err(error.raw_os_error().unwrap_or(libc::EIO)),
            }
        };
        match sent {
            Ok(sent) => {
                for (message, place) in chunk[..sent].iter_mut().zip(0..) {
                    message.outcome = Ok(match &self.next_number {
                        Some(_) if self.on_request => 0,
                        Some(_) if numbered => first.wrapping_add(place),
                        // The kernel counts by itself, and so do we: right as long as it takes no datagram so far that
                        // it counts it and then refuses it (a firewall's EPERM).
                        Some(next) => next.fetch_add(1, Ordering::Relaxed),
                        None => 0,
                    });
                }
                Some(sent.max(1))
            }
            Err(errno) => {
                chunk[0].outcome = Err(errno);
                Some(1)
            }
        }
    }

    /// Hands out the transmit timestamps that have come back: the kernel's number of the datagram, and when it left.
    /// At most a few hundred a call. Until they are taken, `poll` reports an error on the socket at once.
    ///
    /// # Errors
    /// The kernel's, other than "nothing there".
    pub fn drain_transmit_timestamps(
        &self,
        clock: &HostClock,
        take: &mut impl FnMut(u32, LocalTime),
    ) -> io::Result<usize> {
        for count in 0..STAMPS_PER_DRAIN {
            let mut control = Control([0; CONTROL_BYTES]);
            // SAFETY: an all-zero msghdr is a valid value: null pointers and zero lengths.
            let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_BYTES;
            // SAFETY: the header points at `control`, named with its true length; no data is asked for.
            let result = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut header, libc::MSG_ERRQUEUE) };
            match check(result as libc::c_int) {
                Ok(_) => {
                    let found = control_messages(&header);
                    let stamp = found.stamp_ns.and_then(|stamp| clock.from_realtime(stamp));
                    if let (Some(number), Some(at)) = (found.number, stamp) {
                        take(number, at);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(count),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(STAMPS_PER_DRAIN)
    }

    /// Refuses every packet that comes in. For sockets that only send: stray packets would fill the buffer, from which
    /// transmit timestamps are paid for too, and these would stop.
    ///
    /// # Errors
    /// The kernel's.
    pub fn refuse_input(&self) -> io::Result<()> {
        let program = [op(libc::BPF_RET | libc::BPF_K, 0)];
        let program = libc::sock_fprog { len: 1, filter: program.as_ptr().cast_mut() };
        set_option(self.as_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, program)
    }
}

/// Whether this kernel takes a datagram's number from the datagram. Where it does not, it counts by itself, and a datagram
/// that it counted but then refused shifts every later number.
///
/// Asked once, by a datagram to the broadcast address from a socket that may not broadcast: a kernel that knows the control
/// message gets as far as refusing that (or finding no route), one that does not says `EINVAL` first. Nothing is sent.
fn numbers_travel() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let ask = || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            set_timestamping(&socket, transmit_flags(&Options { transmit_timestamps: true, ..Options::default() }))?;
            let to = SockAddr::from(SocketAddr::from(([255; 4], 9)));
            let mut control = NumberMessage::new(0);
            // SAFETY: an all-zero msghdr is a valid value: null pointers and zero lengths.
            let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
            header.msg_name = to.as_ptr().cast_mut().cast();
            header.msg_namelen = to.len();
            header.msg_control = (&raw mut control).cast();
            header.msg_controllen = size_of::<NumberMessage>() as _;
            // SAFETY: the header points at `to` and `control`, which outlive the call, with their true lengths.
            check(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) } as libc::c_int)
        };
        match ask() {
            Ok(_) => true,
            Err(error) => matches!(error.raw_os_error(), Some(libc::EACCES | libc::ENETUNREACH | libc::EHOSTUNREACH)),
        }
    })
}

fn bind_transparent(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let (level, name) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
    };
    set_option(socket.as_fd(), level, name, 1 as libc::c_int).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(
            error.kind(),
            "the address is not local, and sending as it needs CAP_NET_RAW or CAP_NET_ADMIN during set-up",
        ),
        _ => error,
    })?;
    socket.bind(&SockAddr::from(address))
}

/// `SO_TIMESTAMPING` of a socket whose packets are stamped when they arrive.
const RECEIVE_STAMPS: libc::c_uint = libc::SOF_TIMESTAMPING_RX_SOFTWARE | libc::SOF_TIMESTAMPING_SOFTWARE;

fn transmit_flags(options: &Options) -> libc::c_uint {
    if !options.transmit_timestamps {
        return 0;
    }
    let every = if options.stamps_on_request { 0 } else { libc::SOF_TIMESTAMPING_TX_SOFTWARE };
    every | libc::SOF_TIMESTAMPING_SOFTWARE | libc::SOF_TIMESTAMPING_OPT_ID | libc::SOF_TIMESTAMPING_OPT_TSONLY
}

fn set_timestamping(socket: &Socket, flags: libc::c_uint) -> io::Result<()> {
    set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPING, flags)
}

/// An error that says nothing about this call: nothing there, a signal, or ICMP about an earlier datagram.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable, WouldBlock,
    };
    matches!(
        error.kind(),
        WouldBlock | Interrupted | ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable
    )
}

#[cfg(test)]
mod tests;
