//! Numbers of users.

use gcos::hw::pci::Sysfs;

use super::process;
use crate::failure::Failure;

/// Number of a user by name or number.
pub(crate) fn number(sysfs: &Sysfs, user: &str) -> Result<u32, Failure> {
    let listed = || in_passwd(&sysfs.text("etc/passwd").unwrap_or_default(), user);
    let known = user.parse().ok().or_else(listed);
    known.or_else(|| sysfs.is_machine().then(|| ask(user)).flatten()).ok_or_else(|| {
        Failure::usage(format!("there is no user {user:?}; expected a name or a number"))
    })
}

fn in_passwd(passwd: &str, user: &str) -> Option<u32> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == user).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// Users of a directory service are known to the system's own tool, not to a static program.
fn ask(user: &str) -> Option<u32> {
    process::run("id", &["-u", "--", user]).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_whole_names() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nkv:x:1007:1007::/home/kv:/bin/sh\nbroken\n";
        assert_eq!(in_passwd(passwd, "kv"), Some(1007));
        assert_eq!(in_passwd(passwd, "k"), None);
        assert_eq!(in_passwd(passwd, "broken"), None);
    }
}
