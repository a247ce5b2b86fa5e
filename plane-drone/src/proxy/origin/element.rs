//! The grammar of `Forwarded` (RFC 7239, section 4), and the nodes in it and in `X-Forwarded-For`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// One element: what one proxy said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Element {
    /// `for`, where it is an address.
    pub(super) node: Option<IpAddr>,
    /// `host`.
    pub(super) host: Option<Vec<u8>>,
    /// `proto`.
    pub(super) proto: Option<Vec<u8>>,
}

impl Element {
    /// The elements of one line; `None` where it breaks the grammar. Empty elements say nothing (RFC 9110, section 5.6.1).
    pub(super) fn list(line: &[u8]) -> Option<Vec<Self>> {
        let mut input = Input(line);
        let mut elements = Vec::new();
        loop {
            input.skip_blanks();
            match input.peek() {
                None => return Some(elements),
                Some(b',') => input.skip(1),
                Some(_) => {
                    elements.push(Self::one(&mut input)?);
                    input.skip_blanks();
                    if !matches!(input.peek(), None | Some(b',')) {
                        return None;
                    }
                }
            }
        }
    }

    fn one(input: &mut Input<'_>) -> Option<Self> {
        let (mut element, mut has_node) = (Self::default(), false);
        loop {
            if input.peek().is_some_and(is_token) {
                let name = input.token()?;
                input.take(b'=')?;
                let value = if input.peek() == Some(b'"') { input.quoted()? } else { input.token()?.to_vec() };
                // Each parameter may occur once.
                let twice = match name {
                    _ if name.eq_ignore_ascii_case(b"for") => {
                        element.node = node(&value);
                        std::mem::replace(&mut has_node, true)
                    }
                    _ if name.eq_ignore_ascii_case(b"host") => element.host.replace(value).is_some(),
                    _ if name.eq_ignore_ascii_case(b"proto") => element.proto.replace(value).is_some(),
                    _ => false,
                };
                if twice {
                    return None;
                }
            }
            input.skip_blanks();
            if input.peek() != Some(b';') {
                return Some(element);
            }
            input.skip(1);
            input.skip_blanks();
        }
    }
}

/// What is left of a line.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn skip(&mut self, count: usize) {
        self.0 = self.0.get(count..).unwrap_or_default();
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.skip(1);
        }
    }

    fn take(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.skip(1))
    }

    fn token(&mut self) -> Option<&'a [u8]> {
        let length = self.0.iter().position(|byte| !is_token(*byte)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    /// What is between quotes (RFC 9110, section 5.6.4).
    fn quoted(&mut self) -> Option<Vec<u8>> {
        self.take(b'"')?;
        let mut value = Vec::new();
        loop {
            let byte = self.peek()?;
            self.skip(1);
            match byte {
                b'"' => return Some(value),
                b'\\' => {
                    value.push(self.peek()?);
                    self.skip(1);
                }
                _ => value.push(byte),
            }
        }
    }
}

/// A character of a token (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The address of a node, which may have a port; `None` for `unknown`, names that hide it, and what is neither.
pub(super) fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::from);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    // Some write a port that is hidden: "_gazonk" in the RFC's own example.
    let hidden_port = || {
        let (address, port) = text.rsplit_once(":_")?;
        port.bytes().all(is_token).then(|| node(address.as_bytes())).flatten()
    };
    let address = text.parse::<IpAddr>().ok().or_else(bracketed).or_else(with_port).or_else(hidden_port)?;
    Some(address.to_canonical())
}

/// Writes a value as a token, or in quotes where it is none.
pub(super) fn write_value(value: &str, out: &mut Vec<u8>) {
    if !value.is_empty() && value.bytes().all(is_token) {
        out.extend_from_slice(value.as_bytes());
        return;
    }
    out.push(b'"');
    for byte in value.bytes() {
        if matches!(byte, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn element(node: Option<&str>, host: Option<&str>, proto: Option<&str>) -> Element {
        let bytes = |text: &str| text.as_bytes().to_vec();
        Element { node: node.map(|node| node.parse().unwrap()), host: host.map(bytes), proto: proto.map(bytes) }
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        for (line, elements) in [
            ("for=\"_gazonk\"", vec![element(None, None, None)]),
            ("For=\"[2001:db8:cafe::17]:4711\"", vec![element(Some("2001:db8:cafe::17"), None, None)]),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", vec![element(Some("192.0.2.60"), None, Some("http"))]),
            (
                "for=192.0.2.43, for=198.51.100.17",
                vec![element(Some("192.0.2.43"), None, None), element(Some("198.51.100.17"), None, None)],
            ),
            (
                "for=192.0.2.43,for=\"[2001:db8:cafe::17]\",for=unknown",
                vec![
                    element(Some("192.0.2.43"), None, None),
                    element(Some("2001:db8:cafe::17"), None, None),
                    element(None, None, None),
                ],
            ),
            ("for=\"192.0.2.43:47011\" ; host=\"a:1\"", vec![element(Some("192.0.2.43"), Some("a:1"), None)]),
            ("host=\"a\\\"b, for=1.1.1.1\"", vec![element(None, Some("a\"b, for=1.1.1.1"), None)]),
            ("for=\"192.0.2.43:_x\"", vec![element(Some("192.0.2.43"), None, None)]),
            ("", vec![]),
            (" , ,", vec![]),
        ] {
            assert_eq!(Element::list(line.as_bytes()), Some(elements), "{line}");
        }
    }

    #[test]
    fn what_breaks_the_grammar_says_nothing() {
        for line in [
            "for",
            "for=",
            "for =1.1.1.1",
            "for= 1.1.1.1",
            "for=\"1.1.1.1",
            "for=1.1.1.1 for=2.2.2.2",
            "for=1.1.1.1;for=2.2.2.2",
            "for=[::1]",
            "for=\"\\",
            "for=\"a\"b",
            "\u{e9}=1",
        ] {
            assert_eq!(Element::list(line.as_bytes()), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(line: Vec<u8>, text in "[a-z=;,\" \\\\\\[\\]:._0-9]{0,40}") {
            let (_, _) = (Element::list(&line), node(&line));
            Element::list(text.as_bytes());
        }

        #[test]
        fn values_are_read_as_they_were_written(value in "[ -~]{0,20}") {
            let mut line = b"host=".to_vec();
            write_value(&value, &mut line);
            let read = Element::list(&line).unwrap();
            prop_assert_eq!(read, vec![element(None, Some(&value), None)]);
        }
    }
}
