#!/bin/sh
# First process of the guest: modules, one scenario, the kernel's log, power off.
# ttyS0 is the console, ttyS1 what the scenario reports, ttyS2 the kernel's log.
export PATH=/bin HOME=/root
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm /run /tmp
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
hostname guest
for port in /dev/ttyS1 /dev/ttyS2; do
    stty -F "$port" raw
done
for module in $(cat /modules/order); do
    insmod "/modules/$module" || echo "insmod $module failed"
done
for word in $(cat /proc/cmdline); do
    case $word in
    gcos.scenario=*) scenario=${word#gcos.scenario=} ;;
    gcos.log=*) export GCOS_LOG="${word#gcos.log=}" ;;
    esac
done
cd /root
if [ "$scenario" = shell ]; then
    setsid cttyhack sh
else
    guest "$scenario" >/dev/ttyS1
    echo "exit $?" >/dev/ttyS1
fi
dmesg >/dev/ttyS2
echo end >/dev/ttyS2
poweroff -f
