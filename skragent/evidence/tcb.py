"""Chip generations, and their two layouts of TCB_VERSION.

SEV-SNP firmware ABI, TCB_VERSION table. Milan and Genoa: byte 0 boot loader, 1 TEE,
6 SNP, 7 microcode. Turin and Venice: 0 FMC, 1 boot loader, 2 TEE, 3 SNP, 7 microcode.
A report does not name its layout: the generation determines it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

TCB_BYTES = 8


class Generation(enum.Enum):
    """A chip generation, by its name in AMD's key distribution service."""

    MILAN = "Milan"
    GENOA = "Genoa"  # Bergamo and Siena count as Genoa
    TURIN = "Turin"
    VENICE = "Venice"

    @property
    def has_fmc(self) -> bool:
        """Whether the TCB has the newer layout, with a version of the FMC.

        These generations also have short chip ids: 8 significant bytes instead of 64.
        """
        return self in {Generation.TURIN, Generation.VENICE}


# CPUID family -> models (first, last) -> generation, as in github.com/virtee/sev.
_GENERATIONS = {
    0x19: (
        (0x00, 0x0F, Generation.MILAN),
        (0x10, 0x1F, Generation.GENOA),
        (0xA0, 0xAF, Generation.GENOA),
    ),
    0x1A: (
        (0x00, 0x11, Generation.TURIN),
        (0x50, 0x57, Generation.VENICE),
        (0x90, 0xAF, Generation.VENICE),
        (0xC0, 0xC7, Generation.VENICE),
    ),
}


def generation_of_cpuid(family: int, model: int) -> Generation | None:
    """Return the generation of a combined CPUID family and model; None if unknown."""
    for first, last, generation in _GENERATIONS.get(family, ()):
        if first <= model <= last:
            return generation
    return None


def generation_of_product_name(name: str) -> Generation | None:
    """Return the generation of a productName, such as `Milan-B0`; None if unknown."""
    product = name.partition("-")[0].lower()
    for generation in Generation:
        if product == generation.value.lower():
            return generation
    return None


@dataclass(frozen=True, slots=True)
class Tcb:
    """Security versions of the chip's firmware parts, decoded."""

    bootloader: int
    tee: int
    snp: int
    microcode: int
    fmc: int | None = None  # first mutable code: Turin and newer

    def describe(self) -> str:
        """Return one line for people."""
        fmc = "" if self.fmc is None else f"fmc {self.fmc}, "
        return (
            f"{fmc}boot loader {self.bootloader}, tee {self.tee},"
            f" snp {self.snp}, microcode {self.microcode}"
        )


def decode_tcb(raw: bytes, generation: Generation) -> Tcb:
    """Decode the eight bytes of a TCB_VERSION in the layout of this generation."""
    if len(raw) != TCB_BYTES:
        raise ValueError("a TCB_VERSION has eight bytes")
    if generation.has_fmc:
        return Tcb(
            fmc=raw[0], bootloader=raw[1], tee=raw[2], snp=raw[3], microcode=raw[7]
        )
    return Tcb(bootloader=raw[0], tee=raw[1], snp=raw[6], microcode=raw[7])
