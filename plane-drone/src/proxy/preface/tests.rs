use super::*;
use proptest::prelude::*;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
};

fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, rest].concat()
}

fn tcp4() -> Vec<u8> {
    header(0x21, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x67, 0x01, 0xbb])
}

fn tcp6(source: &str) -> Vec<u8> {
    let source: Ipv6Addr = source.parse().unwrap();
    let addresses = [&source.octets()[..], &Ipv6Addr::LOCALHOST.octets(), &[0x12, 0x67, 0x01, 0xbb]].concat();
    header(0x21, 0x21, &addresses)
}

fn carried(client: &str) -> Preface {
    Preface::Carried { client: client.parse().unwrap() }
}

fn whole(bytes: &[u8]) -> Preface {
    match decode(bytes).unwrap() {
        Progress::Whole(preface) => preface,
        Progress::More(more) => panic!("{more} more"),
    }
}

#[test]
fn headers_say_whose_a_connection_is() {
    // What stands behind the addresses: a checksum that is wrong, the name that was asked for.
    let extras = [3, 0, 4, 1, 2, 3, 4, 2, 0, 6].iter().chain(b"b.test").copied().collect::<Vec<_>>();
    let with_extras = header(0x21, 0x11, &[&tcp4()[FIXED_BYTES..], &extras].concat());
    for (bytes, preface) in [
        (tcp4(), carried("192.0.2.7:4711")),
        (tcp6("2001:db8::7"), carried("[2001:db8::7]:4711")),
        (tcp6("::ffff:192.0.2.7"), carried("192.0.2.7:4711")),
        (with_extras, carried("192.0.2.7:4711")),
        (header(0x20, 0x00, &[]), Preface::Local),
        (header(0x20, 0x11, &[1, 2, 3]), Preface::Local),
        (header(0x21, 0x00, &[]), Preface::Local),
        (header(0x21, 0x00, &[1; 100]), Preface::Local),
        (header(0x21, 0x12, &[1; 12]), Preface::Local),
        (header(0x21, 0x22, &[1; 36]), Preface::Local),
        (header(0x21, 0x31, &[1; 216]), Preface::Local),
        (header(0x21, 0x32, &[1; 216]), Preface::Local),
        (header(0x21, 0x00, &[0; EXTRA_BYTES]), Preface::Local),
    ] {
        assert_eq!(whole(&bytes), preface, "{bytes:?}");
    }
}

#[test]
fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
    let is = |bytes: &[u8]| match decode(bytes).unwrap_err() {
        PrefaceError::NoHeader => "none",
        PrefaceError::OldVersion => "old",
        PrefaceError::Command(_) => "command",
        PrefaceError::Family(_) => "family",
        PrefaceError::Short(_) => "short",
        PrefaceError::Long(_) => "long",
        PrefaceError::Broken(_) => "broken",
        PrefaceError::Silent => "silent",
    };
    for (bytes, refused) in [
        (&b"G"[..], "none"),
        (b"GET / HTTP/1.1\r\n", "none"),
        (b"PRI * HTTP/2.0\r\n", "none"),
        (b"\r\n\r\nG", "none"),
        (&[0x16, 3, 1], "none"),
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n", "old"),
        (b"PROXY UNKNOWN\r\n", "old"),
        (&header(0x11, 0x11, &[])[..13], "command"),
        (&header(0x22, 0x11, &[])[..13], "command"),
        (&header(0x21, 0x13, &[])[..14], "family"),
        (&header(0x21, 0x41, &[])[..14], "family"),
        (&header(0x21, 0x11, &[1; 11]), "short"),
        (&header(0x21, 0x21, &[1; 35]), "short"),
        (&header(0x21, 0x31, &[1; 215]), "short"),
        (&header(0x21, 0x00, &[0; EXTRA_BYTES + 1])[..FIXED_BYTES], "long"),
        (&header(0x20, 0x00, &[0; 60_000])[..FIXED_BYTES], "long"),
    ] {
        assert_eq!(is(bytes), refused, "{bytes:?}");
    }
}

#[tokio::test]
async fn nothing_beyond_the_header_is_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    client.write_all(&[tcp6("2001:db8::7"), b"GET /".to_vec()].concat()).await.unwrap();
    assert_eq!(read(&mut server).await.unwrap(), carried("[2001:db8::7]:4711"));
    let mut rest = [0; 5];
    server.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"GET /");
}

#[tokio::test]
async fn an_end_within_the_header_is_told() {
    assert!(read(&mut &b""[..]).await.unwrap_err().is_silence());
    for length in [5, FIXED_BYTES, 20] {
        let bytes = tcp4();
        let error = read(&mut &bytes[..length]).await.unwrap_err();
        assert!(error.to_string().contains("ended within the header"), "{error}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_taken(bytes: Vec<u8>) {
        let _ = decode(&bytes);
        let _ = decode(&[SIGNATURE, &bytes[..]].concat());
    }

    #[test]
    fn in_any_pieces_it_is_the_same(source: [u8; 4], port: u16, extra in 0usize..300, steps in prop::collection::vec(1usize..40, 1..20)) {
        let addresses = [&source[..], &[10, 0, 0, 1], &port.to_be_bytes(), &[0, 80], &vec![7; extra][..]].concat();
        let bytes = header(0x21, 0x11, &addresses);
        let mut read = 0;
        let mut steps = steps.into_iter().cycle();
        let preface = loop {
            match decode(&bytes[..read]).unwrap() {
                Progress::Whole(preface) => break preface,
                Progress::More(more) => {
                    prop_assert!(more > 0 && read + more <= bytes.len());
                    read += more.min(steps.next().unwrap());
                }
            }
        };
        prop_assert_eq!(read, bytes.len());
        prop_assert_eq!(preface, Preface::Carried { client: SocketAddr::new(IpAddr::from(source), port) });
    }
}
