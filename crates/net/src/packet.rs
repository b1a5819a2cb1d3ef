//! Whole Ethernet frames with kernel receive timestamps: what the lab's WAN emulator is made of.
//!
//! **Problem.** An emulator has to hand every frame on at "when it arrived + delay". The hour it *wakes up* is
//! no substitute for "when it arrived": on two busy cores a thread wakes tens to hundreds of microseconds late.
//!
//! **Why the obvious answer fails.** A TUN device gives no receive timestamp, so its reader's wake-up becomes part
//! of the path (84–154 µs of unseen delay against 3–6 µs here). One socket per interface costs one system call per
//! interface per turn of the loop.
//!
//! **Sketch.** One `AF_PACKET`/`SOCK_RAW` socket hears every interface of its network namespace, tells which one a
//! frame came in on, and sends on whichever it is told. `recvmmsg` and `sendmmsg` move [`FRAMES_PER_CALL`] frames at
//! once. `PACKET_IGNORE_OUTGOING` keeps it from hearing itself.
//!
//! A frame whose sender left the checksum to its network card arrives here without one, and the far host drops it
//! without a word: call [`disable_transmit_checksum_offload`] on every veth whose frames a [`PacketSocket`] carries.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Most frames moved by one system call; the headers for them (about 150 bytes each) live on the stack: 10 KiB.
pub const FRAMES_PER_CALL: usize = 64;

/// Longest frame received whole: 1,500 bytes of payload and 14 of Ethernet header, rounded up to a power of two.
pub const FRAME_BYTES_MAX: usize = 2048;

/// Socket buffer asked for, in bytes: 4,096 small frames at about 1 KiB of kernel memory each. Without
/// `CAP_NET_ADMIN` the kernel grants what `net.core.rmem_max` allows instead.
const SOCKET_BUFFER_BYTES: libc::c_int = 4 << 20;

/// Room for one `SCM_TIMESTAMPING`: 16 bytes of header and three timespecs of 16, rounded up.
const CONTROL_BYTES: usize = 128;

/// Receive timestamps made by the kernel's software, and no others. `SO_TIMESTAMPNS` would lie: a packet that came in
/// while the kernel was still switching timestamps on gets the time of *reading* there, and no mark of it.
const TIMESTAMPING: libc::c_int = (libc::SOF_TIMESTAMPING_RX_SOFTWARE | libc::SOF_TIMESTAMPING_SOFTWARE) as libc::c_int;

/// A frame as received.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// Index of the interface it came in on.
    pub interface_index: u32,
    /// When the kernel received it: `CLOCK_REALTIME` in nanoseconds since 1970.
    pub received_at_realtime_ns: i64,
    /// Whether that is the kernel's timestamp; otherwise it is the moment of reading.
    pub kernel_stamped: bool,
    /// The frame, from the Ethernet header on.
    pub bytes: &'a [u8],
    /// Whether it was longer than [`FRAME_BYTES_MAX`] and lost its end.
    pub truncated: bool,
}

/// A frame to send.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Index of the interface to send it on.
    pub interface_index: u32,
    /// The frame, from the Ethernet header on.
    pub bytes: &'a [u8],
}

/// What became of the frames given to [`PacketSocket::send`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendOutcome {
    /// Frames the kernel took.
    pub sent: usize,
    /// Frames the kernel refused: interface down or gone, frame longer than its MTU.
    pub refused: usize,
}

#[derive(Clone, Copy, Default)]
struct FrameHead {
    length: usize,
    interface_index: u32,
    received_at_realtime_ns: i64,
    kernel_stamped: bool,
    truncated: bool,
}

/// Preallocated room for the frames of one [`PacketSocket::receive`].
pub struct FrameBatch {
    buffers: Vec<[u8; FRAME_BYTES_MAX]>,
    heads: [FrameHead; FRAMES_PER_CALL],
    count: usize,
}

impl FrameBatch {
    /// Allocates room for [`FRAMES_PER_CALL`] frames (128 KiB).
    pub fn new() -> Self {
        Self {
            buffers: vec![[0; FRAME_BYTES_MAX]; FRAMES_PER_CALL],
            heads: [FrameHead::default(); FRAMES_PER_CALL],
            count: 0,
        }
    }

    /// The frames of the last receive, in order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = Received<'_>> {
        self.heads[..self.count].iter().zip(&self.buffers).map(|(head, buffer)| Received {
            interface_index: head.interface_index,
            received_at_realtime_ns: head.received_at_realtime_ns,
            kernel_stamped: head.kernel_stamped,
            bytes: &buffer[..head.length],
            truncated: head.truncated,
        })
    }
}

impl Default for FrameBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for FrameBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameBatch").field("count", &self.count).finish()
    }
}

/// A raw packet socket, non-blocking, of the network namespace in which it was opened.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens a socket that hears one interface, or every interface of the namespace when `interface_index` is `None`.
    ///
    /// # Errors
    /// The system call's error; `PermissionDenied` means that `CAP_NET_RAW` is missing in the user namespace that owns
    /// this network namespace.
    pub fn open(interface_index: Option<u32>) -> io::Result<Self> {
        let protocol_be = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: socket() takes no pointers. Protocol 0 keeps it deaf until bind() below.
        let raw = check(unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0)
        })?;
        // SAFETY: socket() succeeded, so `raw` is a descriptor that nothing else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let socket = Self { fd };
        socket.set_option(libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
        socket.set_option(libc::SOL_SOCKET, libc::SO_TIMESTAMPING, TIMESTAMPING)?;
        for (force, plain) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
            if socket.set_option(libc::SOL_SOCKET, force, SOCKET_BUFFER_BYTES).is_err() {
                socket.set_option(libc::SOL_SOCKET, plain, SOCKET_BUFFER_BYTES)?;
            }
        }
        let address = link_address(interface_index.unwrap_or(0), protocol_be);
        // SAFETY: `address` is a valid sockaddr_ll of the size given and outlives the call.
        check(unsafe {
            libc::bind(
                socket.fd.as_raw_fd(),
                (&raw const address).cast(),
                mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })?;
        Ok(socket)
    }

    /// Receives what is there, at most [`FRAMES_PER_CALL`] frames, without waiting; returns how many.
    ///
    /// # Errors
    /// The system call's error; nothing to read is `Ok(0)`.
    pub fn receive(&self, batch: &mut FrameBatch) -> io::Result<usize> {
        batch.count = 0;
        // SAFETY: these are plain C structs (and byte arrays) for which all zeroes is a valid value.
        let mut headers: [libc::mmsghdr; FRAMES_PER_CALL] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut vectors: [libc::iovec; FRAMES_PER_CALL] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut addresses: [libc::sockaddr_ll; FRAMES_PER_CALL] = unsafe { mem::zeroed() };
        let mut controls = [ControlBuffer([0; CONTROL_BYTES]); FRAMES_PER_CALL];
        for i in 0..FRAMES_PER_CALL {
            vectors[i] = libc::iovec { iov_base: batch.buffers[i].as_mut_ptr().cast(), iov_len: FRAME_BYTES_MAX };
            let header = &mut headers[i].msg_hdr;
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut addresses[i]).cast();
            header.msg_namelen = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            header.msg_control = controls[i].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_BYTES as _;
        }
        // SAFETY: every pointer in `headers` is to an element of an array above (or of `batch`), of the length given
        // beside it, and all of them outlive the call.
        let received = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                headers.as_mut_ptr(),
                FRAMES_PER_CALL as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let received = match check(received) {
            Ok(count) => count as usize,
            Err(error) if is_nothing_there(&error) => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut read_at_ns = None;
        for i in 0..received {
            let stamp = timestamp_of(&headers[i].msg_hdr);
            batch.heads[i] = FrameHead {
                length: (headers[i].msg_len as usize).min(FRAME_BYTES_MAX),
                interface_index: addresses[i].sll_ifindex as u32,
                received_at_realtime_ns: stamp.unwrap_or_else(|| *read_at_ns.get_or_insert_with(realtime_now_ns)),
                kernel_stamped: stamp.is_some(),
                truncated: headers[i].msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            };
        }
        batch.count = received;
        Ok(received)
    }

    /// Sends all `frames`, in order, passing over those that the kernel refuses.
    pub fn send(&self, frames: &[Outgoing<'_>]) -> SendOutcome {
        let mut outcome = SendOutcome::default();
        for chunk in frames.chunks(FRAMES_PER_CALL) {
            self.send_chunk(chunk, &mut outcome);
        }
        outcome
    }

    fn send_chunk(&self, frames: &[Outgoing<'_>], outcome: &mut SendOutcome) {
        // SAFETY: these are plain C structs for which all zeroes is a valid value.
        let mut headers: [libc::mmsghdr; FRAMES_PER_CALL] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut vectors: [libc::iovec; FRAMES_PER_CALL] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut addresses: [libc::sockaddr_ll; FRAMES_PER_CALL] = unsafe { mem::zeroed() };
        for (i, frame) in frames.iter().enumerate() {
            // The protocol only tells the kernel how to read the frame it is about to send.
            let protocol_be = match frame.bytes.get(12..14) {
                Some(&[high, low]) => u16::from_ne_bytes([high, low]),
                _ => 0,
            };
            addresses[i] = link_address(frame.interface_index, protocol_be);
            vectors[i] = libc::iovec { iov_base: frame.bytes.as_ptr().cast_mut().cast(), iov_len: frame.bytes.len() };
            let header = &mut headers[i].msg_hdr;
            header.msg_iov = &raw mut vectors[i];
            header.msg_iovlen = 1;
            header.msg_name = (&raw mut addresses[i]).cast();
            header.msg_namelen = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        }
        let mut next = 0;
        // Every turn passes at least one frame, sent or refused: at most FRAMES_PER_CALL turns.
        while next < frames.len() {
            // SAFETY: `next < frames.len() <= FRAMES_PER_CALL`, so the range lies inside `headers`; its pointers are to
            // the arrays above and to the callers' frames, which the kernel only reads, and all outlive the call.
            let sent = unsafe {
                libc::sendmmsg(
                    self.fd.as_raw_fd(),
                    headers.as_mut_ptr().add(next),
                    (frames.len() - next) as libc::c_uint,
                    libc::MSG_DONTWAIT,
                )
            };
            if sent > 0 {
                outcome.sent += sent as usize;
                next += sent as usize;
            } else {
                outcome.refused += 1;
                next += 1;
            }
        }
    }

    /// Waits until a frame can be read or `timeout` is over, and tells whether one can.
    ///
    /// The kernel may overrun `timeout` by its timer slack and by 0.1 % of it.
    ///
    /// # Errors
    /// The system call's error; an interruption by a signal is `Ok(false)`.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let mut descriptor = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs().min(3600) as libc::time_t,
            tv_nsec: timeout.subsec_nanos() as _,
        };
        // SAFETY: one pollfd and one timespec, both alive during the call; no signal mask.
        let ready = check(unsafe { libc::ppoll(&raw mut descriptor, 1, &raw const timeout, std::ptr::null()) });
        match ready {
            Ok(count) => Ok(count > 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Frames the kernel dropped because this socket's buffer was full, since the last call.
    ///
    /// # Errors
    /// The system call's error.
    pub fn take_kernel_drops(&self) -> io::Result<u32> {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = mem::size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the pointers are to a tpacket_stats and to its length, both alive during the call.
        check(unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut length,
            )
        })?;
        Ok(statistics.tp_drops)
    }

    fn set_option(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        // SAFETY: the pointer is to an int of the size given, alive during the call.
        check(unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                mem::size_of::<libc::c_int>() as libc::socklen_t,
            )
        })?;
        Ok(())
    }
}

/// Makes the kernel compute the checksums of everything sent on `interface`, instead of leaving them to a network card.
///
/// Acts in the calling thread's network namespace (the ethtool request `ETHTOOL_STXCSUM`).
///
/// # Errors
/// `InvalidInput` for a name of 16 bytes or more or with a zero byte in it; else the system call's error: `ENODEV` for an
/// unknown interface, `EPERM` without `CAP_NET_ADMIN` there.
pub fn disable_transmit_checksum_offload(interface: &str) -> io::Result<()> {
    const ETHTOOL_STXCSUM: u32 = 0x17;
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    #[repr(C)]
    struct EthtoolValue {
        command: u32,
        value: u32,
    }
    let name = interface.as_bytes();
    if name.len() >= libc::IFNAMSIZ || name.contains(&0) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("interface name {interface:?}: expected 1 to {} bytes", libc::IFNAMSIZ - 1),
        ));
    }
    let mut value = EthtoolValue { command: ETHTOOL_STXCSUM, value: 0 };
    // SAFETY: ifreq is a plain C struct for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").or_else(|_| {
        // A namespace whose loopback is still down has no 127.0.0.1; any socket of this namespace will do.
        std::net::UdpSocket::bind("0.0.0.0:0")
    })?;
    // SAFETY: `request` is a valid ifreq whose data pointer is to an ethtool_value; both outlive the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) })?;
    Ok(())
}

/// Control messages must be aligned like `cmsghdr`.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct ControlBuffer([u8; CONTROL_BYTES]);

fn link_address(interface_index: u32, protocol_be: u16) -> libc::sockaddr_ll {
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol_be,
        sll_ifindex: interface_index as libc::c_int,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    }
}

fn timestamp_of(header: &libc::msghdr) -> Option<i64> {
    // SAFETY: `header` was filled by recvmmsg and its control buffer is still alive; the CMSG functions stay inside it.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !control.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a whole, aligned cmsghdr inside the control buffer.
        let (level, kind) = unsafe { ((*control).cmsg_level, (*control).cmsg_type) };
        if level == libc::SOL_SOCKET && kind == libc::SCM_TIMESTAMPING {
            // SAFETY: the kernel puts three timespecs behind a cmsghdr of this type, the software stamp first; an unaligned
            // read makes no assumption about where.
            let stamp = unsafe { libc::CMSG_DATA(control).cast::<libc::timespec>().read_unaligned() };
            let stamp_ns = stamp.tv_sec * 1_000_000_000 + stamp.tv_nsec;
            return (stamp_ns != 0).then_some(stamp_ns);
        }
        // SAFETY: as for CMSG_FIRSTHDR; `control` came from it.
        control = unsafe { libc::CMSG_NXTHDR(header, control) };
    }
    None
}

fn realtime_now_ns() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec alive during the call; CLOCK_REALTIME always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut now) };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn is_nothing_there(error: &io::Error) -> bool {
    // ENETDOWN is reported once when an interface goes down, which is how hosts leave the lab.
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        || error.raw_os_error() == Some(libc::ENETDOWN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Instant;

    /// Loopback's index in every network namespace.
    const LOOPBACK_INDEX: u32 = 1;

    fn open_on_loopback() -> Option<PacketSocket> {
        match PacketSocket::open(Some(LOOPBACK_INDEX)) {
            Ok(socket) => Some(socket),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("skipped: AF_PACKET needs CAP_NET_RAW");
                None
            }
            Err(error) => panic!("open: {error}"),
        }
    }

    #[test]
    fn a_frame_is_received_with_its_interface_and_a_kernel_timestamp() {
        let Some(socket) = open_on_loopback() else {
            return;
        };
        let to = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut batch = FrameBatch::new();
        // The kernel switches its timestamps on a moment after the first socket asks for them: repeat until it has. Other
        // tests use loopback as well: each repetition looks for its own words.
        for repetition in 0..100 {
            let marker = format!("startgun packet socket test {repetition:03}");
            let before_ns = realtime_now_ns();
            to.send_to(marker.as_bytes(), to.local_addr().unwrap()).unwrap();
            let sent_ns = realtime_now_ns();
            // The reader is late on purpose: a kernel stamp must not be.
            std::thread::sleep(Duration::from_millis(30));
            while socket.receive(&mut batch).unwrap() > 0 {
                let mut frames = batch.iter();
                let ours = frames.find(|frame| frame.bytes.ends_with(marker.as_bytes()));
                let Some(frame) = ours.filter(|frame| frame.kernel_stamped) else {
                    continue;
                };
                assert_eq!(frame.interface_index, LOOPBACK_INDEX);
                assert_eq!(frame.bytes.len(), 14 + 20 + 8 + marker.len());
                assert!(!frame.truncated);
                assert!(frame.received_at_realtime_ns >= before_ns);
                assert!(frame.received_at_realtime_ns <= sent_ns + 10_000_000);
                return;
            }
        }
        panic!("no frame with a kernel timestamp came");
    }

    #[test]
    fn waiting_ends_with_a_frame_or_with_the_time() {
        let Some(socket) = open_on_loopback() else {
            return;
        };
        let to = UdpSocket::bind("127.0.0.1:0").unwrap();
        to.send_to(b"x", to.local_addr().unwrap()).unwrap();
        assert!(socket.wait(Duration::from_secs(5)).unwrap());
        let mut batch = FrameBatch::new();
        let start = Instant::now();
        // Other tests may go on sending; a wait that finds nothing has lasted.
        while socket.receive(&mut batch).unwrap() > 0 {}
        if !socket.wait(Duration::from_millis(20)).unwrap() {
            assert!(start.elapsed() >= Duration::from_millis(20));
        }
    }

    #[test]
    fn frames_for_an_unknown_interface_are_counted_as_refused() {
        let Some(socket) = open_on_loopback() else {
            return;
        };
        let frame = [0u8; 60];
        let outcome = socket.send(&[Outgoing { interface_index: 2_000_000_000, bytes: &frame }]);
        assert_eq!(outcome, SendOutcome { sent: 0, refused: 1 });
    }

    #[test]
    fn wrong_interface_names_are_refused() {
        let error = disable_transmit_checksum_offload("a-name-of-17-char").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let error = disable_transmit_checksum_offload("no-such-if").unwrap_err();
        assert!(
            matches!(error.raw_os_error(), Some(libc::ENODEV) | Some(libc::EPERM) | Some(libc::EOPNOTSUPP)),
            "{error}"
        );
    }
}
