//! Which form of an answer a client wants: its Accept (RFC 9110, section 12.5.1), judged for the three that there are.

/// A form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Wanted {
    /// `text/html`, which only browsers ask for by name.
    Html,
    /// `application/json`.
    Json,
    /// `text/plain`.
    Text,
}

/// How well a form suits: its weight in thousandths, then how closely it is named.
type Fit = (u16, Named);

/// How closely a media range names a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Named {
    /// `*/*`
    Anything,
    /// `text/*`
    Kind,
    /// `text/html`
    Exactly,
}

impl Wanted {
    /// What a client wants that sends this Accept. Who does not care gets text.
    pub(in crate::proxy) fn of(accept: Option<&str>) -> Self {
        let Some(accept) = accept else { return Self::Text };
        let fit = |wanted: Self| fit(accept, wanted).unwrap_or((0, Named::Anything));
        let (html, json, text) = (fit(Self::Html), fit(Self::Json), fit(Self::Text));
        let best = html.max(json).max(text);
        // Of forms that suit equally well a page is for browsers, which name it; a client that takes anything is served text.
        match best {
            (0, _) => Self::Text,
            (_, Named::Exactly) if html == best => Self::Html,
            (_, Named::Exactly) if json == best => Self::Json,
            _ if text == best => Self::Text,
            _ if html == best => Self::Html,
            _ => Self::Json,
        }
    }

    fn media(self) -> (&'static str, &'static str) {
        match self {
            Self::Html => ("text", "html"),
            Self::Json => ("application", "json"),
            Self::Text => ("text", "plain"),
        }
    }
}

/// How well a form suits: what the range says that names it most closely.
fn fit(accept: &str, wanted: Wanted) -> Option<Fit> {
    let fits = accept.split(',').filter_map(|range| {
        let (range, parameters) = range.split_once(';').unwrap_or((range, ""));
        let named = named(range.trim(), wanted)?;
        Some((named, weight(parameters)?))
    });
    // Of ranges that name it equally closely the better one counts.
    fits.max().map(|(named, weight)| (weight, named))
}

fn named(range: &str, wanted: Wanted) -> Option<Named> {
    let (kind, form) = range.split_once('/')?;
    let (its_kind, its_form) = wanted.media();
    match (kind, form) {
        ("*", "*") => Some(Named::Anything),
        (kind, "*") if kind.eq_ignore_ascii_case(its_kind) => Some(Named::Kind),
        (kind, form) if kind.eq_ignore_ascii_case(its_kind) && form.eq_ignore_ascii_case(its_form) => {
            Some(Named::Exactly)
        }
        _ => None,
    }
}

/// The weight among a range's parameters, in thousandths (RFC 9110, section 12.4.2); `None` where it is no weight.
fn weight(parameters: &str) -> Option<u16> {
    let given = parameters.rsplit(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    let Some(text) = given else { return Some(1000) };
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
    let thousandths = format!("{part:0<3}").parse::<u16>().ok().filter(|_| digits)?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_clients_send_gets_what_they_want() {
        for (accept, wanted) in [
            // Firefox, Chromium, Safari.
            ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", Wanted::Html),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Wanted::Html),
            // curl, fetch and images without a say, axios, jQuery.
            ("*/*", Wanted::Text),
            ("image/avif,image/webp,image/*,*/*;q=0.8", Wanted::Text),
            ("application/json, text/plain, */*", Wanted::Json),
            ("application/json, text/javascript, */*; q=0.01", Wanted::Json),
            ("application/json", Wanted::Json),
            ("Application/JSON ; charset=utf-8", Wanted::Json),
            ("application/*", Wanted::Json),
            ("text/*", Wanted::Text),
            ("text/plain", Wanted::Text),
            ("text/plain;q=0.5, text/html;q=0.4", Wanted::Text),
            ("text/html;q=0.5, application/json", Wanted::Json),
            ("text/html;q=0, */*", Wanted::Text),
            ("text/plain;q=0, text/html;q=0, */*", Wanted::Json),
            ("text/html;level=1;q=1.000", Wanted::Html),
            ("text/html;q=1.001, application/json;q=0.1", Wanted::Json),
            ("text/html;q=x", Wanted::Text),
            ("text/html;q=0.5;q=0", Wanted::Text),
            ("image/png", Wanted::Text),
            ("text", Wanted::Text),
            (",;,/", Wanted::Text),
            ("", Wanted::Text),
        ] {
            assert_eq!(Wanted::of(Some(accept)), wanted, "{accept}");
        }
        assert_eq!(Wanted::of(None), Wanted::Text);
    }

    proptest! {
        #[test]
        fn anything_is_taken(accept in "[a-z*/;,=q0-9. é]{0,40}") {
            Wanted::of(Some(&accept));
        }

        #[test]
        fn a_form_that_is_weighted_out_is_not_given(rest in "[a-z*/;,=q0-9. ]{0,20}") {
            prop_assume!(!rest.contains("html"));
            prop_assert_ne!(Wanted::of(Some(&format!("text/html;q=0, {rest}"))), Wanted::Html);
        }
    }
}
