//! The account that servers run as: our own, or where we are root, one without privileges.

use std::io;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// An account to start servers as.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Account {
    /// The one that runs this process.
    Own,
    /// Another: this process is root.
    Other {
        /// Its user id.
        uid: u32,
        /// Its main group.
        gid: u32,
    },
}

impl Account {
    /// The account for servers that refuse to run as root.
    pub(crate) fn unprivileged() -> io::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own);
        }
        let passwd = std::fs::read_to_string("/etc/passwd")?;
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| find(&passwd, name))
            .ok_or_else(|| {
                io::Error::other("running as root, and there is no account `postgres` or `nobody`")
            })
    }

    /// A command that runs as this account, in `directory`.
    pub(crate) fn command(self, program: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(directory).env("HOME", directory);
        if let Self::Other { uid, gid } = self {
            // Dropping root this way also drops the supplementary groups.
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Gives a file or a directory, without what is in it, to this account.
    pub(crate) fn own(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid } => chown(path, Some(uid), Some(gid)),
        }
    }

    /// Whether this account can run `program`, directories above it included.
    pub(crate) fn can_run(self, program: &Path) -> bool {
        self.command(program, Path::new("/"))
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success())
    }
}

fn find(passwd: &str, name: &str) -> Option<Account> {
    let line = passwd
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some(Account::Other {
        uid: fields.next()?.parse().ok()?,
        gid: fields.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let passwd = "postgresql:x:1:2::/:\npostgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash\n";
        assert!(matches!(
            find(passwd, "postgres"),
            Some(Account::Other { uid: 101, gid: 104 })
        ));
        assert!(find(passwd, "nobody").is_none());
    }
}
