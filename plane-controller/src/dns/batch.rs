//! Many datagrams with one call into the kernel, in and out.
//!
//! The standard library sends and receives one at a time. Of the crates that have the calls, nix keeps raw pointers
//! between them, so that its buffers cannot move with a task, and gives all messages of a call one source address;
//! quinn-udp sends one at a time. So the two calls are made here, on pointers that live no longer than the call.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

/// How many datagrams one call takes at most.
pub(super) const BATCH: usize = 64;
/// The largest request that is read, in bytes. Of a larger one the rest is lost: it is malformed, unless what is lost
/// stands behind the message, where nobody looks.
const LARGEST_REQUEST: usize = 4096;
/// Room for what the kernel says of a datagram besides: to which of our addresses it came.
const CONTROL: usize = 64;

/// A batch of datagrams and their answers; the room for them is used again and again.
pub(super) struct Batch {
    received: usize,
    slots: Box<[Slot]>,
}

struct Slot {
    packet: [u8; LARGEST_REQUEST],
    length: usize,
    /// Who sent it, as the kernel gave it: this or, at its start, the shorter form of version 4.
    client: libc::sockaddr_in6,
    client_length: libc::socklen_t,
    control: Control,
    control_length: usize,
    /// What is sent back; nothing where it is empty.
    answer: Vec<u8>,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

impl Slot {
    fn new() -> Self {
        let client = libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        };
        Self {
            packet: [0; LARGEST_REQUEST],
            length: 0,
            client,
            client_length: 0,
            control: Control([0; CONTROL]),
            control_length: 0,
            answer: Vec::new(),
        }
    }

    fn client(&self) -> Option<IpAddr> {
        match i32::from(self.client.sin6_family) {
            libc::AF_INET6 => Some(IpAddr::from(self.client.sin6_addr.s6_addr).to_canonical()),
            // There the address stands where version 6 has its flow.
            libc::AF_INET => Some(IpAddr::from(self.client.sin6_flowinfo.to_ne_bytes())),
            _ => None,
        }
    }
}

/// A datagram, and where its answer goes.
pub(super) struct Exchange<'a> {
    pub(super) packet: &'a [u8],
    /// Who asks.
    pub(super) client: IpAddr,
    /// Empty at first; what is left in it is sent.
    pub(super) answer: &'a mut Vec<u8>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self { received: 0, slots: (0..BATCH).map(|_| Slot::new()).collect() }
    }

    /// What was received last.
    pub(super) fn exchanges(&mut self) -> impl Iterator<Item = Exchange<'_>> {
        self.slots.iter_mut().take(self.received).filter_map(|slot| {
            slot.answer.clear();
            let client = slot.client()?;
            let packet = slot.packet.get(..slot.length)?;
            Some(Exchange { packet, client, answer: &mut slot.answer })
        })
    }

    /// Receives what has come, at most [`BATCH`] datagrams, without waiting; how many.
    ///
    /// # Errors
    /// Those of recvmmsg(2); `WouldBlock` where nothing has come.
    #[allow(unsafe_code, reason = "recvmmsg(2) has no safe form; see the module's header")]
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.received = 0;
        // SAFETY: all zero bytes are a value of these structures of numbers and null pointers.
        let (mut headers, mut parts): ([libc::mmsghdr; BATCH], [libc::iovec; BATCH]) = unsafe { std::mem::zeroed() };
        for ((slot, header), part) in self.slots.iter_mut().zip(&mut headers).zip(&mut parts) {
            part.iov_base = slot.packet.as_mut_ptr().cast();
            part.iov_len = LARGEST_REQUEST;
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = (&raw mut slot.client).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            header.msg_hdr.msg_control = slot.control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL as _;
        }
        // SAFETY: there are BATCH headers; each points to one part, one name and one control buffer of the lengths given,
        // which live in this call and in slots that nobody else can touch during it.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        self.received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (slot, header) in self.slots.iter_mut().zip(&headers).take(self.received) {
            slot.length = (header.msg_len as usize).min(LARGEST_REQUEST);
            slot.client_length = header.msg_hdr.msg_namelen;
            #[allow(clippy::unnecessary_cast, reason = "other C libraries have a shorter number here")]
            let control_length = header.msg_hdr.msg_controllen as usize;
            slot.control_length = control_length.min(CONTROL);
            leave_by_any_interface(&mut slot.control, slot.control_length);
        }
        Ok(self.received)
    }

    /// Sends the answers, each from the address that was asked. What the system does not take at once is lost, as
    /// datagrams may be.
    #[allow(unsafe_code, reason = "sendmmsg(2) has no safe form; see the module's header")]
    pub(super) fn send(&mut self, socket: BorrowedFd<'_>) {
        // SAFETY: as in `receive`.
        let (mut headers, mut parts): ([libc::mmsghdr; BATCH], [libc::iovec; BATCH]) = unsafe { std::mem::zeroed() };
        let mut count = 0;
        let answered = self.slots.iter_mut().take(self.received).filter(|slot| !slot.answer.is_empty());
        for ((slot, header), part) in answered.zip(&mut headers).zip(&mut parts) {
            part.iov_base = slot.answer.as_mut_ptr().cast();
            part.iov_len = slot.answer.len();
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = (&raw mut slot.client).cast();
            header.msg_hdr.msg_namelen = slot.client_length;
            if slot.control_length > 0 {
                header.msg_hdr.msg_control = slot.control.0.as_mut_ptr().cast();
                header.msg_hdr.msg_controllen = slot.control_length as _;
            }
            count += 1;
        }
        self.received = 0;
        let mut left = headers.get_mut(..count).unwrap_or_default();
        while !left.is_empty() {
            // SAFETY: as many headers as are left; what they point to lives in this call and in slots that nobody else
            // can touch during it. The kernel reads names, parts and control buffers, and writes to the headers alone.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    left.as_mut_ptr(),
                    left.len() as libc::c_uint,
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            };
            let done = match usize::try_from(sent) {
                Ok(done) => done.max(1),
                // There is no room, so there is none for the others: that is a loss, which clients of UDP know.
                Err(_) if is_full(&io::Error::last_os_error()) => return,
                // The first of them cannot be sent: the others may.
                Err(_) => 1,
            };
            left = left.get_mut(done..).unwrap_or_default();
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}

/// Has the kernel say to which of our addresses a datagram came, so that its answer comes from there.
///
/// # Errors
/// Those of setsockopt(2).
#[allow(unsafe_code, reason = "neither option has a safe form in the crates that we have")]
pub(super) fn tell_addresses(socket: BorrowedFd<'_>, ipv6: bool) -> io::Result<()> {
    let (level, option) =
        if ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) } else { (libc::IPPROTO_IP, libc::IP_PKTINFO) };
    let on: libc::c_int = 1;
    // SAFETY: the value is an int that lives during the call, and its length is that of an int.
    let done = unsafe {
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), length)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes the interface out of what the kernel said, so that the answer goes where routes lead. Link-local addresses mean
/// something on their interface alone.
fn leave_by_any_interface(control: &mut Control, length: usize) {
    // A control message is its length, level and type, then here the structure in6_pktinfo or in_pktinfo.
    const DATA: usize = size_of::<libc::cmsghdr>();
    let number = |bytes: &[u8], at: usize| Some(i32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
    let Some(message) = control.0.get_mut(..length) else { return };
    let level_at = size_of::<usize>();
    let kind = (number(message, level_at), number(message, level_at + 4));
    let interface = match kind {
        (Some(libc::IPPROTO_IPV6), Some(libc::IPV6_PKTINFO)) => {
            let link_local =
                message.get(DATA) == Some(&0xfe) && message.get(DATA + 1).is_some_and(|b| b & 0xc0 == 0x80);
            if link_local { return } else { DATA + 16 }
        }
        (Some(libc::IPPROTO_IP), Some(libc::IP_PKTINFO)) => DATA,
        _ => return,
    };
    if let Some(interface) = message.get_mut(interface..interface + 4) {
        interface.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::UdpSocket, os::fd::AsFd};

    /// Every answer goes back to who asked, from the address that was asked.
    #[test]
    fn answers_go_back_from_the_address_that_was_asked() {
        let wildcards = [("0.0.0.0", "127.0.0.2", "127.0.0.1"), ("::", "::1", "::1"), ("::", "127.0.0.3", "127.0.0.1")];
        for (bound, asked, from) in wildcards {
            let server = UdpSocket::bind((bound, 0)).unwrap();
            tell_addresses(server.as_fd(), bound == "::").unwrap();
            let clients: Vec<UdpSocket> = (0..10).map(|_| UdpSocket::bind((from, 0)).unwrap()).collect();
            for (number, client) in clients.iter().enumerate() {
                // A connected socket takes nothing from another address.
                client.connect((asked, server.local_addr().unwrap().port())).unwrap();
                client.send(&[u8::try_from(number).unwrap(); 9]).unwrap();
                client.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
            }
            let mut batch = Batch::new();
            assert_eq!(batch.receive(server.as_fd()).unwrap(), clients.len());
            for exchange in batch.exchanges() {
                assert_eq!(exchange.client, from.parse::<IpAddr>().unwrap());
                if exchange.packet[0] != 3 {
                    exchange.answer.extend(exchange.packet.iter().map(|byte| byte + 100));
                }
            }
            batch.send(server.as_fd());
            for (number, client) in clients.iter().enumerate().filter(|(number, _)| *number != 3) {
                let mut answer = [0; 20];
                let length = client.recv(&mut answer).unwrap();
                assert_eq!(answer[..length], [u8::try_from(number).unwrap() + 100; 9]);
            }
            assert_eq!(batch.receive(server.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }
}
