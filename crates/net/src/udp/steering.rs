//! Which member of a `SO_REUSEPORT` group gets a packet: classic BPF, run by the kernel.

use super::UdpSocket;
use crate::set_option;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

/// Where classic BPF finds the network header, whatever the packet's data pointer.
const SKF_NET_OFF: u32 = -0x10_0000_i32 as u32;
/// Fibonacci hashing: 2³² divided by the golden ratio; the upper bits are the well mixed ones.
const MIX: u32 = 0x9e37_79b9;
const MIX_SHIFT: u32 = 16;

/// A whole prefix, /24 or /56, meets one shard: the same that share a budget there.
const IPV4_HOST_BITS: u32 = 8;
const IPV6_SECOND_WORD: u32 = 0xffff_ff00;

/// The shard that [`UdpSocket::steer_by_source`] sends this source's packets to: whatever its port, and whatever its
/// address within its /24 or /56.
pub fn shard_of_source(source: IpAddr, shards: usize) -> usize {
    let word = match source {
        IpAddr::V4(ip) => ip.to_bits() >> IPV4_HOST_BITS,
        IpAddr::V6(ip) => {
            let prefix = (ip.to_bits() >> 64) as u64;
            (prefix >> 32) as u32 ^ (prefix as u32 & IPV6_SECOND_WORD)
        }
    };
    (word.wrapping_mul(MIX) >> MIX_SHIFT) as usize % shards.max(1)
}

impl UdpSocket {
    /// Steers packets of this socket's `SO_REUSEPORT` group by [`shard_of_source`]. Call once, after every member is
    /// bound, in the order of the shards.
    ///
    /// # Errors
    /// The kernel's.
    pub fn steer_by_source(&self, shards: usize) -> io::Result<()> {
        let load = |at: u32| op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, SKF_NET_OFF + at);
        let mut program = Vec::new();
        if self.address.is_ipv4() {
            program.push(load(12));
            program.push(op(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, IPV4_HOST_BITS));
        } else {
            // A ← (w1 without its last byte) xor w0: the first 56 bits of the source.
            program.push(load(8));
            program.push(op(libc::BPF_MISC | libc::BPF_TAX, 0));
            program.push(load(12));
            program.push(op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, IPV6_SECOND_WORD));
            program.push(op(libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X, 0));
        }
        program.push(op(libc::BPF_ALU | libc::BPF_MUL | libc::BPF_K, MIX));
        program.push(op(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, MIX_SHIFT));
        program.push(op(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, shards as u32));
        program.push(op(libc::BPF_RET | libc::BPF_A, 0));
        self.attach(&program)
    }

    /// Steers packets of this socket's group by the byte at `offset` of the payload, modulo `shards`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn steer_by_byte(&self, offset: usize, shards: usize) -> io::Result<()> {
        self.attach(&[
            op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, offset as u32),
            op(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, shards as u32),
            op(libc::BPF_RET | libc::BPF_A, 0),
        ])
    }

    fn attach(&self, program: &[libc::sock_filter]) -> io::Result<()> {
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
        set_option(self.as_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, program)
    }
}

pub(crate) fn op(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}
