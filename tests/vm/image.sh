#!/bin/sh
# Make the VM's disk of a fresh Debian tree; mmdebstrap runs this with the tree's path.
#   image.sh OUT_DIRECTORY TREE
# No loop device: mke2fs copies the tree.
set -eu
out=$1 root=$2
kernel=linux-image-cloud-amd64

# The kernel: only its image and a few modules of its package. ext4, NVMe, TPM TIS,
# securityfs and the serial console are built in, so no initramfs is needed.
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

# Remove units that slow down the boot or need a person.
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
# All generators run for seconds at each daemon-reload, and none is needed here.
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

# A journal that survives a reboot and records every message.
mkdir -p "$root/var/log/journal" "$root/etc/systemd/journald.conf.d"
cat >"$root/etc/systemd/journald.conf.d/vm.conf" <<'END'
[Journal]
Storage=persistent
SystemMaxUse=64M
RateLimitIntervalSec=0
END

# The guest agent logs each command, several times a second. It ends only after its
# commands, and the command of a reboot never ends.
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
# mmdebstrap creates this file so that no service starts in the tree.
rm -f "$root/usr/sbin/policy-rc.d"
chroot "$root" useradd --create-home alice
chroot "$root" useradd --create-home mallory

# Free space for a second version of the package and for a journal only, because one
# scenario fills the disk. A part is reserved for root, as by default. The bind mount of the
# tree does not show the file systems that mmdebstrap has mounted in it.
export out stage root
mkdir "$stage/tree"
unshare --mount sh -euc '
  mount --bind "$root" "$stage/tree"
  size=$(($(du -sk "$stage/tree" | cut -f 1) * 115 / 100 + 204800))
  mke2fs -q -F -t ext4 -O "^has_journal,^metadata_csum" -m 5 \
    -E lazy_itable_init=1,root_owner=0:0 -d "$stage/tree" "$out/root.ext4" "${size}k"
'
