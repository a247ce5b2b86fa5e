//! What the environment asks the demo to be.

use std::str::FromStr;
use std::time::Duration;

/// Which backend the demo plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// `page`: listens at once and serves.
    Page,
    /// `never`: runs, but never listens.
    Never,
    /// `late`: listens after `DEMO_AFTER_MS`, then serves.
    Late,
    /// `exit`: exits after `DEMO_AFTER_MS` without having listened.
    Exit,
    /// `exit-after-ready`: serves, then exits `DEMO_AFTER_MS` later.
    ExitAfterReady,
    /// `chatty`: writes many lines first, then serves (it listens before it writes).
    Chatty,
    /// `stubborn`: serves and ignores SIGTERM and SIGINT.
    Stubborn,
    /// `silent`: accepts connections and reads them, but never answers.
    Silent,
    /// `garbage`: answers each connection with something that is not HTTP.
    Garbage,
}

impl Mode {
    const ALL: [(&'static str, Mode); 9] = [
        ("page", Mode::Page),
        ("never", Mode::Never),
        ("late", Mode::Late),
        ("exit", Mode::Exit),
        ("exit-after-ready", Mode::ExitAfterReady),
        ("chatty", Mode::Chatty),
        ("stubborn", Mode::Stubborn),
        ("silent", Mode::Silent),
        ("garbage", Mode::Garbage),
    ];

    /// Whether the port is open from the first moment on.
    pub(crate) fn listens_at_once(self) -> bool {
        !matches!(self, Mode::Never | Mode::Late | Mode::Exit)
    }

    fn named(name: &str) -> Result<Mode, String> {
        let found = Mode::ALL.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, mode)| mode).ok_or_else(|| {
            let known: Vec<&str> = Mode::ALL.iter().map(|(name, _)| *name).collect();
            format!("DEMO_MODE={name} is not known; known are {}", known.join(", "))
        })
    }
}

/// The whole environment, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) mode: Mode,
    pub(crate) port: u16,
    pub(crate) after: Duration,
    pub(crate) code: u8,
    pub(crate) lines: u32,
    pub(crate) status: u16,
}

impl Plan {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// A sentence that names the variable, where one cannot be read.
    pub(crate) fn from_env() -> Result<Plan, String> {
        Plan::from_lookup(|name| std::env::var(name).ok())
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Plan, String> {
        let mode = lookup("DEMO_MODE").map_or(Ok(Mode::Page), |name| Mode::named(&name))?;
        let lines = if mode == Mode::Chatty { 1000 } else { 0 };
        Ok(Plan {
            mode,
            port: number(&lookup, "PORT", 8080)?,
            after: Duration::from_millis(number(&lookup, "DEMO_AFTER_MS", 1000)?),
            code: number(&lookup, "DEMO_CODE", 0)?,
            lines: number(&lookup, "DEMO_LINES", lines)?,
            status: number(&lookup, "DEMO_STATUS", 200)?,
        })
    }
}

fn number<N: FromStr>(lookup: &impl Fn(&str) -> Option<String>, name: &str, default: N) -> Result<N, String> {
    match lookup(name) {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| format!("{name}={text} is not a number that fits")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(pairs: &[(&str, &str)]) -> Result<Plan, String> {
        Plan::from_lookup(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn an_empty_environment_is_the_page_on_8080() {
        let plan = plan(&[]).unwrap();
        assert_eq!((plan.mode, plan.port, plan.lines, plan.status), (Mode::Page, 8080, 0, 200));
    }

    #[test]
    fn every_mode_is_found_by_its_name() {
        for (name, mode) in Mode::ALL {
            assert_eq!(plan(&[("DEMO_MODE", name)]).unwrap().mode, mode);
        }
    }

    #[test]
    fn faults_name_the_variable() {
        assert!(plan(&[("DEMO_MODE", "quiet")]).unwrap_err().contains("exit-after-ready"));
        assert!(plan(&[("PORT", "65536")]).unwrap_err().contains("PORT=65536"));
    }

    #[test]
    fn chatty_has_lines_of_its_own_unless_told() {
        assert_eq!(plan(&[("DEMO_MODE", "chatty")]).unwrap().lines, 1000);
        assert_eq!(plan(&[("DEMO_MODE", "chatty"), ("DEMO_LINES", "3")]).unwrap().lines, 3);
    }
}
