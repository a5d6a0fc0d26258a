#!/bin/sh
# Makes the VM's disk of a new Debian tree; mmdebstrap runs this with the tree's path.
#   image.sh OUT_DIRECTORY TREE
# mke2fs copies the tree, so no loop device is needed.
set -eu
out=$1 root=$2
kernel=linux-image-cloud-amd64

# Of the kernel package take only the image and the few modules that are not built in.
# ext4, NVMe, TPM TIS, securityfs and the serial console are built in, so that the VM
# needs no initramfs.
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
package=$(apt-cache depends --no-recommends --no-suggests "$kernel" |
          sed -n 's/^ *Depends: \(linux-image-[^ ]*\).*/\1/p' | head -n 1)
( cd "$stage" && apt-get -q -o APT::Sandbox::User=root download "$package" &&
  dpkg-deb -x ./linux-image-*.deb kernel && rm ./linux-image-*.deb )
release=$(ls "$stage/kernel/lib/modules")
modules=lib/modules/$release
mkdir -p "$root/$modules"
( cd "$stage/kernel/$modules" &&
  cp modules.builtin modules.order modules.builtin.modinfo "$root/$modules/" &&
  find kernel -name 'virtio*.ko' -o -name 'net_failover.ko' -o -name 'failover.ko' \
    -o -name 'autofs4.ko' -o -name 'rng-core.ko' | cpio -pdm --quiet "$root/$modules" )
depmod -b "$root" "$release"
cp "$stage/kernel/boot/vmlinuz-$release" "$out/vmlinuz"

# Mask units that make the boot slow or that serve interactive users.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer getty.target \
    getty@tty1.service serial-getty@ttyS0.service systemd-logind.service \
    systemd-timesyncd.service systemd-firstboot.service systemd-pstore.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service \
    systemd-machine-id-commit.service systemd-binfmt.service ldconfig.service \
    systemd-hwdb-update.service systemd-journal-catalog-update.service \
    systemd-update-done.service systemd-remount-fs.service systemd-random-seed.service \
    modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service \
    dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
# Mask all generators: they take seconds at each daemon-reload, and no unit here comes
# from them.
mkdir -p "$root/etc/systemd/system-generators"
for generator in "$root"/lib/systemd/system-generators/*; do
  ln -sf /dev/null "$root/etc/systemd/system-generators/${generator##*/}"
done
ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"
rm -rf "$root/var/lib/apt/lists" "$root/var/cache/apt" "$root/etc/resolv.conf"
mkdir -p "$root/var/lib/apt/lists/partial" "$root/var/cache/apt/archives/partial"
: >"$root/etc/fstab"
echo skragent-vm >"$root/etc/hostname"
echo 0123456789abcdef0123456789abcdef >"$root/etc/machine-id"

# Keep the journal across reboots, and do not limit its rate.
mkdir -p "$root/var/log/journal" "$root/etc/systemd/journald.conf.d"
cat >"$root/etc/systemd/journald.conf.d/vm.conf" <<'END'
[Journal]
Storage=persistent
SystemMaxUse=64M
RateLimitIntervalSec=0
END

# The guest agent logs every command, several times a second. On SIGTERM it waits for its
# last command, and a reboot command never ends.
mkdir -p "$root/etc/systemd/system/qemu-guest-agent.service.d"
printf '[Service]\nLogLevelMax=warning\nTimeoutStopSec=1\n' \
  >"$root/etc/systemd/system/qemu-guest-agent.service.d/quiet.conf"

# The only network: link-local, with Azure's addresses.
cat >"$root/etc/systemd/system/vm-network.service" <<'END'
[Unit]
Description=The network to the emulated Azure
After=sys-subsystem-net-devices-eth0.device
BindsTo=sys-subsystem-net-devices-eth0.device
Before=network-online.target
JobTimeoutSec=20

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/sbin/ip link set eth0 up
ExecStart=/sbin/ip address add 169.254.169.10/24 dev eth0

[Install]
WantedBy=multi-user.target network-online.target
END
for target in multi-user network-online; do
  mkdir -p "$root/etc/systemd/system/$target.target.wants"
  ln -sf ../vm-network.service "$root/etc/systemd/system/$target.target.wants/"
done
# This file keeps services from starting while mmdebstrap makes the tree.
rm -f "$root/usr/sbin/policy-rc.d"
chroot "$root" useradd --create-home alice
chroot "$root" useradd --create-home mallory

# The disk has space for a second version of the package and for a journal, and no more:
# one scenario fills it. 5 % are reserved for root, as by default. The copy is made from
# a bind mount, which does not include the mounts that mmdebstrap made in the tree.
export out stage root
mkdir "$stage/tree"
unshare --mount sh -euc '
  mount --bind "$root" "$stage/tree"
  size=$(($(du -sk "$stage/tree" | cut -f 1) * 115 / 100 + 204800))
  mke2fs -q -F -t ext4 -O "^has_journal,^metadata_csum" -m 5 \
    -E lazy_itable_init=1,root_owner=0:0 -d "$stage/tree" "$out/root.ext4" "${size}k"
'
