// A key that only a confidential VM can have, and the VM: a Premium key vault or a Managed HSM, an exportable key with a
// release policy, a SEV-SNP VM with a managed identity that may ask for its release, and skragent installed by cloud-init.
//
// The README, "In Azure", walks through it. main.json is the same as an ARM template; a test holds the two together.
// Nothing here was deployed by the project: it had no Azure subscription.

targetScope = 'resourceGroup'

@description('The Azure region of everything. It must offer confidential VMs of the size below.')
param location string = resourceGroup().location

@description('Where the key lives: a Premium key vault, or a Managed HSM, whose roles and keys are made afterwards by az CLI.')
@allowed([
  'premiumVault'
  'managedHsm'
])
param keyStore string = 'premiumVault'

@description('The name of the vault or Managed HSM. It is part of a DNS name: nobody else in Azure may have it.')
@minLength(3)
@maxLength(24)
param keyStoreName string = 'skr-${uniqueString(resourceGroup().id)}'

@description('Object ids of the first administrators of a Managed HSM. Not used for a vault.')
param hsmAdministrators array = []

@description('For how many days a deleted vault, Managed HSM or key can be brought back. Purge protection is on: nobody can shorten it.')
@minValue(7)
@maxValue(90)
param retentionDays int = 90

@description('The name of the key: in the vault, and for the workloads that ask skragent for it.')
@minLength(1)
@maxLength(64)
param keyName string = 'db'

@description('Bits of the RSA key.')
@allowed([
  2048
  3072
  4096
])
param keySize int = 3072

@description('How the identity gets the permission to release the key: by a role on the key, or by an access policy of the vault.')
@allowed([
  'role'
  'accessPolicy'
])
param permissionModel string = 'role'

@description('The attestation provider that the release policy trusts, as https://NAME.REGION.attest.azure.net. Empty: Microsoft\'s shared one of the region.')
param attestationAuthority string = ''

@description('Whether the release policy names this VM by its id, so that no other VM can have the key released. False: for a scale set, whose VMs come and go.')
param pinToVm bool = true

@description('Which managed identity the VM has: its own, or one that other VMs can have, too, and that outlives it.')
@allowed([
  'systemAssigned'
  'userAssigned'
])
param identityKind string = 'systemAssigned'

@description('The name of the VM.')
@minLength(1)
@maxLength(64)
param vmName string = 'skragent-vm'

@description('A size with AMD SEV-SNP: DCasv5, DCadsv5, ECasv5, ECadsv5 or newer of the kind.')
param vmSize string = 'Standard_DC2as_v5'

@description('What of the disk is encrypted with a key that only the VM has: with DiskWithVMGuestState all of the OS disk, with VMGuestStateOnly just the state of its vTPM.')
@allowed([
  'DiskWithVMGuestState'
  'VMGuestStateOnly'
])
param diskEncryption string = 'DiskWithVMGuestState'

@description('The VM\'s image. It must be made for confidential VMs, and be what the package was built for.')
param image object = {
  publisher: 'Canonical'
  offer: 'ubuntu-24_04-lts'
  sku: 'cvm'
  version: 'latest'
}

@description('The VM\'s administrator.')
param adminUsername string = 'azureuser'

@description('The SSH public key of the administrator.')
param adminPublicKey string

@description('Who on the VM may fetch the key: a user of it.')
param keyUser string = adminUsername

@description('From where SSH is let in: an address range such as 203.0.113.7/32. Empty: from nowhere.')
param sshSource string = ''

@description('Where the skragent package is: an https URL, which may carry a SAS token. Empty: none is installed, and you copy one.')
@secure()
param packageUrl string = ''

@description('The SHA-256 of the package, in hex. It must be given with the URL.')
param packageSha256 string = ''

var inVault = keyStore == 'premiumVault'
var inHsm = keyStore == 'managedHsm'
var byRole = permissionModel == 'role'
var roleIsGranted = inVault && byRole
var policyIsGranted = inVault && !byRole
var hasOwnIdentity = identityKind == 'systemAssigned'

// The same table as skragent's own (skragent/attestation/regions.py). A region that is not in it needs attestationAuthority.
var regionCodes = loadJsonContent('attestation-regions.json')
var region = toLower(replace(location, ' ', ''))
var authority = empty(attestationAuthority) ? 'https://shared${regionCodes[region]}.${regionCodes[region]}.attest.azure.net' : attestationAuthority

// Both files are valid as they are, for West Europe. The id of zeros in the first one is no VM's.
// Azure Resource Manager writes a VM's id in lower case, the attestation token of an SEV-SNP VM in upper case; a policy compares letter case.
var policyFile = pinToVm ? loadTextContent('release-policy.json') : loadTextContent('release-policy-scale-set.json')
var regionPolicy = replace(policyFile, 'https://sharedweu.weu.attest.azure.net', authority)
var releasePolicy = pinToVm ? replace(regionPolicy, '00000000-0000-0000-0000-000000000000', toUpper(virtualMachine.properties.vmId)) : regionPolicy

// base64 becomes base64url, which the vault's REST API requires.
var releasePolicyData = replace(replace(replace(base64(releasePolicy), '+', '-'), '/', '_'), '=', '')

// Key Vault Crypto Service Release User: releases keys, and nothing else.
var releaseRole = subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '08bbd89e-9f13-488c-ac41-acfcb10c90ab')
var principalId = hasOwnIdentity ? virtualMachine.identity.principalId : userIdentity.properties.principalId

// A vault's name ends as the cloud says; for Managed HSM Azure Resource Manager does not tell it, so that one is the public cloud's.
var storeUrl = inVault ? 'https://${keyStoreName}${environment().suffixes.keyvaultDns}' : 'https://${keyStoreName}.managedhsm.azure.net'

var cloudInitText = loadTextContent('cloud-init.yaml')
var cloudInitEndpoint = replace(cloudInitText, '@ATTESTATION_ENDPOINT@', empty(attestationAuthority) ? 'auto' : attestationAuthority)
var cloudInitIdentity = replace(cloudInitEndpoint, '@IDENTITY_RESOURCE_ID@', hasOwnIdentity ? '' : userIdentity.id)
var cloudInitKey = replace(replace(cloudInitIdentity, '@KEY_NAME@', keyName), '@VAULT_URL@', storeUrl)
var cloudInitUser = replace(cloudInitKey, '@KEY_USER@', keyUser)
var cloudInit = replace(replace(cloudInitUser, '@PACKAGE_URL@', packageUrl), '@PACKAGE_SHA256@', packageSha256)

resource keyVault 'Microsoft.KeyVault/vaults@2026-02-01' = if (inVault) {
  name: keyStoreName
  location: location
  properties: {
    tenantId: subscription().tenantId
    sku: {
      family: 'A'
      name: 'premium' // only it keeps keys in HSMs, and only those can be released
    }
    enableRbacAuthorization: byRole // always given: what Azure takes for a missing value changed with API version 2026-02-01
    accessPolicies: [] // the whole list, again at each deployment; what is granted below is added to it
    enableSoftDelete: true
    softDeleteRetentionInDays: retentionDays
    enablePurgeProtection: true
  }
}

// Created after the VM, because the policy has the VM's id. Created once: a deployment does not change an existing key or its
// policy. A VM that is deleted and created again has a new id: set the policy anew (README, "A VM that was created again").
resource vaultKey 'Microsoft.KeyVault/vaults/keys@2026-02-01' = if (inVault) {
  parent: keyVault
  name: keyName
  properties: {
    kty: 'RSA-HSM'
    keySize: keySize
    keyOps: [ // what the vault itself may do with it; release needs none of them
      'encrypt'
      'decrypt'
    ]
    attributes: {
      enabled: true
      exportable: true // for good: it cannot be changed later
    }
    release_policy: {
      contentType: 'application/json; charset=utf-8'
      data: releasePolicyData
    }
  }
}

// On this key alone. A VM that is deleted and made anew has another identity of its own, and Azure changes no assignment:
// delete the old one first (az role assignment delete), or have a user-assigned identity.
resource roleAssignment 'Microsoft.Authorization/roleAssignments@2022-04-01' = if (roleIsGranted) {
  scope: vaultKey
  name: guid(vaultKey.id, vmName, identityKind, releaseRole)
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: releaseRole
  }
}

// On all keys of the vault: access policies know no single keys.
resource vaultPolicy 'Microsoft.KeyVault/vaults/accessPolicies@2026-02-01' = if (policyIsGranted) {
  parent: keyVault
  name: 'add'
  properties: {
    accessPolicies: [
      {
        tenantId: subscription().tenantId
        objectId: principalId
        permissions: {
          keys: [
            'release'
          ]
        }
      }
    ]
  }
}

// It has to be activated, and its roles and keys are its own: Azure Resource Manager makes neither. The README goes on by az CLI.
resource hsm 'Microsoft.KeyVault/managedHSMs@2026-02-01' = if (inHsm) {
  name: keyStoreName
  location: location
  sku: {
    family: 'B'
    name: 'Standard_B1'
  }
  properties: {
    tenantId: subscription().tenantId
    initialAdminObjectIds: hsmAdministrators
    enableSoftDelete: true
    softDeleteRetentionInDays: retentionDays
    enablePurgeProtection: true
  }
}

resource userIdentity 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = if (!hasOwnIdentity) {
  name: '${vmName}-identity'
  location: location
}

// Nothing comes in from the Internet but what sshSource lets in; what else there is are Azure's default rules.
resource securityGroup 'Microsoft.Network/networkSecurityGroups@2024-05-01' = {
  name: '${vmName}-nsg'
  location: location
  properties: {
    securityRules: empty(sshSource) ? [] : [
      {
        name: 'ssh'
        properties: {
          priority: 100
          direction: 'Inbound'
          access: 'Allow'
          protocol: 'Tcp'
          sourceAddressPrefix: sshSource
          sourcePortRange: '*'
          destinationAddressPrefix: '*'
          destinationPortRange: '22'
        }
      }
    ]
  }
}

resource network 'Microsoft.Network/virtualNetworks@2024-05-01' = {
  name: '${vmName}-vnet'
  location: location
  properties: {
    addressSpace: {
      addressPrefixes: [
        '10.0.0.0/24'
      ]
    }
    subnets: [
      {
        name: 'default'
        properties: {
          addressPrefix: '10.0.0.0/24'
          defaultOutboundAccess: false
          networkSecurityGroup: {
            id: securityGroup.id
          }
        }
      }
    ]
  }
}

// The VM's way out, to Azure Attestation, the vault and the package: its subnet has no other.
resource publicAddress 'Microsoft.Network/publicIPAddresses@2024-05-01' = {
  name: '${vmName}-ip'
  location: location
  sku: {
    name: 'Standard' // closed to what comes in, unless a rule lets it
  }
  properties: {
    publicIPAllocationMethod: 'Static'
  }
}

resource networkInterface 'Microsoft.Network/networkInterfaces@2024-05-01' = {
  name: '${vmName}-nic'
  location: location
  properties: {
    ipConfigurations: [
      {
        name: 'primary'
        properties: {
          privateIPAllocationMethod: 'Dynamic'
          subnet: {
            id: '${network.id}/subnets/default'
          }
          publicIPAddress: {
            id: publicAddress.id
          }
        }
      }
    ]
  }
}

resource virtualMachine 'Microsoft.Compute/virtualMachines@2024-07-01' = {
  name: vmName
  location: location
  identity: hasOwnIdentity ? {
    type: 'SystemAssigned'
  } : {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${userIdentity.id}': {}
    }
  }
  properties: {
    hardwareProfile: {
      vmSize: vmSize
    }
    securityProfile: {
      securityType: 'ConfidentialVM'
      uefiSettings: {
        secureBootEnabled: true // shared attestation providers refuse guests without it
        vTpmEnabled: true
      }
    }
    storageProfile: {
      imageReference: image
      osDisk: {
        createOption: 'FromImage'
        deleteOption: 'Delete'
        managedDisk: {
          storageAccountType: 'Premium_LRS'
          securityProfile: {
            securityEncryptionType: diskEncryption
          }
        }
      }
    }
    osProfile: {
      computerName: vmName
      adminUsername: adminUsername
      customData: base64(cloudInit)
      linuxConfiguration: {
        disablePasswordAuthentication: true
        ssh: {
          publicKeys: [
            {
              path: '/home/${adminUsername}/.ssh/authorized_keys'
              keyData: adminPublicKey
            }
          ]
        }
      }
    }
    networkProfile: {
      networkInterfaces: [
        {
          id: networkInterface.id
        }
      ]
    }
    diagnosticsProfile: {
      bootDiagnostics: {
        enabled: true // the serial console needs it
      }
    }
  }
}

@description('The name of the vault or Managed HSM, for az CLI.')
output keyStoreName string = keyStoreName

@description('Where the vault or Managed HSM answers: `vault` in skragent.toml.')
output keyStoreUrl string = storeUrl

@description('The object id of the VM\'s identity, for roles and policies.')
output principalId string = principalId

@description('The release policy with the authority of this region and, with pinToVm, the id of this VM, for keys that are made by az CLI.')
output releasePolicy string = releasePolicy
